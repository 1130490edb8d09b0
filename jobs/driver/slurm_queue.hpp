#pragma once
// The jobs of a run: slurm/jobs.json, written by `divergen submit`, and what Slurm says of them in one call.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "stages/common/run_directory.hpp"

namespace divergen::driver {

struct SubmittedJob {
  std::string label, id, script;
  int link = 1;  // of a chain
};

struct Submission {
  std::string id, config, site;
  std::vector<SubmittedJob> jobs;
};

/// Atomically. Throws Error(Io | NoSpace).
void write_submission(const stages::RunDirectory& dir, const Submission& submission);
/// Nothing when the run was not submitted. Throws Error(Data) when the file is damaged.
std::optional<Submission> read_submission(const stages::RunDirectory& dir);

struct QueuedJob {
  std::string id;  // "12", or "12_3" and "12_[0-5]" of an array
  std::string state, reason, elapsed, left, nodes;
  bool is_running() const { return state == "RUNNING"; }
};
/// Those of the jobs that are still in the queue, by label; one squeue call. Nothing when there is no squeue or it does
/// not answer.
std::optional<std::multimap<std::string, QueuedJob>> ask_queue(const Submission& submission);

}  // namespace divergen::driver
