#pragma once
// Starting divergen-worker on several ranks, passing signals on, and waiting for it.

#include <string>
#include <vector>

#include "base/fs.hpp"
#include "base/run_lock.hpp"

namespace divergen::driver {

/// Where this program's companions lie.
Path program_folder();

using divergen::RunLock;

struct Launch {
  std::vector<std::string> worker_args;  // "generate", "configs/mini.toml", ...
  int ranks = 1;
  int threads_per_rank = 1;
  Path console;  // file for what the ranks and their launcher say; empty: where the driver's own words go
};

/// Command line that is going to run: srun inside a Slurm allocation, else mpirun.
std::vector<std::string> command_line(const Launch& launch);

/// Runs it. SIGTERM and SIGINT are turned into SIGUSR2 for the ranks, which stop at the next safe point. Returns the
/// exit code of the stage: 0, or that of the first rank that failed; 70 when a rank was killed by a signal.
int run(const Launch& launch);

}  // namespace divergen::driver
