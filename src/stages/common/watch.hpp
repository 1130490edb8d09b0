#pragma once
// What others can see of a run from outside, in its directory alone: how far the stages at work are, how much is
// committed, and all of it as numbers for Prometheus.
//
//   progress/<stage>.json   how far the stage's last start came; written every few seconds by its rank 0
//   progress/<stage>.stop   why that start was stopped early ("the time limit"); absent when it was not
//   progress/<stage>.begun  its ranks found each other and began; the batch script takes it away before each start
//   metrics.prom            everything as a Prometheus text file (node_exporter's textfile collector), whole at any
//   time

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "comm/progress.hpp"
#include "stages/common/run_directory.hpp"

namespace divergen::stages {

struct StageProgress {
  comm::ProgressView view;  // its stage may be a part of the stage: "filter.scores"
  std::string stage;        // "filter", "train.baseline"
  double time = 0;          // when it was written, seconds since the epoch
  int ranks = 0;
  std::string host, job;  // of rank 0; Slurm's job id or ""
  std::int64_t restarts = 0;
};

/// Writes progress/<stage>.json and metrics.prom. For rank 0 of a stage, from one thread. A file system that does not
/// take them is warned of once: the stage itself is not to end for them.
class Heartbeat {
 public:
  Heartbeat(RunDirectory dir, std::string stage, int ranks, std::string host);
  void operator()(const comm::ProgressView& view);
  /// The stage is complete: metrics.prom tells its record.
  void done();
  /// The reason of an early stop, for status and for the batch script. Any thread.
  void note_stop(std::string_view reason) const;

 private:
  void attempt(const std::function<void()>& action);

  RunDirectory dir_;
  StageProgress progress_;
  bool warned_ = false;
};

/// By stage. Damaged files count as absent: each is replaced within seconds while its stage is at work.
std::map<std::string, StageProgress> read_progress(const RunDirectory& dir);
/// "" when the last start of the stage was not stopped early.
std::string read_stop(const RunDirectory& dir, const std::string& stage);

/// How much of a stage is committed: shards, iterations of the newest checkpoint, parts, and one more when its record
/// stands. Two starts without a growth of it are a crash loop.
std::int64_t committed_units(const RunDirectory& dir, const std::string& stage);

/// The records and the progress as Prometheus' text format 0.0.4. Throws nothing of damaged files: they are left out.
std::string prometheus_text(const RunDirectory& dir);
/// Atomically. Throws Error(Io | NoSpace).
void write_prometheus(const RunDirectory& dir);

}  // namespace divergen::stages
