#pragma once
// What a machine has and how it is set up: the questions that support asks first.

#include <string>
#include <vector>

#include "base/fs.hpp"

namespace divergen::driver {

struct Finding {
  std::string name, value;
  std::string advice;     // "" where all is well
  bool is_fatal = false;  // runs cannot work so
};

/// None of them throws: what cannot be found out says so.
std::vector<Finding> check_machine();                   // system, cores, memory, limits of this shell, clock
std::vector<Finding> check_launchers();                 // Open MPI, PMIx, Slurm, the worker and its libraries
std::vector<Finding> check_gpus();                      // GPUs, driver, NCCL
std::vector<Finding> check_folder(const Path& folder);  // file system, space, inodes, locks, time of a commit, HDF5

}  // namespace divergen::driver
