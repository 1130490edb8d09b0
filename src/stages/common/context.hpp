#pragma once
// What every stage is given.

#include <functional>

#include "comm/progress.hpp"
#include "comm/world.hpp"
#include "config/settings.hpp"
#include "stages/common/run_directory.hpp"

namespace divergen::stages {

struct RunContext {
  const config::RunConfig& config;
  RunDirectory dir;
  comm::World& world;
  /// Whether this rank was asked to stop (signal, walltime, stop file). Cheap; stages agree on it between ranks
  /// (World::any) where all must stop at the same point, then throw Error(Stopped).
  std::function<bool()> stop_requested = [] { return false; };
  /// Rank 0 of a stage tells how far all ranks are, every few seconds, from one thread; for those who watch the run.
  std::function<void(const comm::ProgressView&)> report_progress = [](const comm::ProgressView&) {};
};

// Each stage is one function, collective over the ranks of the context's world, in src/stages/<stage>/<stage>.hpp:
//   void run_generate(const RunContext&);  ... annotate, filter, pool
//   void run_train(const RunContext&, const config::TrainSettings&);
//   void run_evaluate(const RunContext&, const config::TrainSettings&);
// It resumes by itself, returns when its results are committed and its record is written (by rank 0), and does
// nothing when a record with the same fingerprint stands. Throws Error(Stopped) when it stopped early.

}  // namespace divergen::stages
