#pragma once
// A scaling study in its folder: what is to be measured, the runs that are done, and the results made of them.
//
//   OUT/study.json                    what the study is; the same for all that work on it
//   OUT/config.effective.toml         its configuration, with each value's origin
//   OUT/machine.json                  what it was measured on, written by the first that measures
//   OUT/inputs/<items>/               a run directory with all that the stage reads
//   OUT/points/p000004/r1/run.json    one run that is done (r0: the warm-up); console.log, and what its ranks wrote
//   OUT/failures.jsonl                runs that failed, one a line
//   OUT/simulated.json                simulated points
//   OUT/slurm/                        scripts that `--submit` wrote
//   OUT/scaling-<...>.csv|.json|.html the results: theme_hardware_date_entity
//
// A run that has no run.json is made from nothing: times of a run that was interrupted mean nothing.

#include <map>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "stages/scaling/study.hpp"

namespace divergen::driver {

struct ScalingPlan {
  std::string stage, training, mode;  // "generate"; of train and evaluate; "strong" | "weak"
  std::int64_t items = 0;             // in all (strong), or of one rank (weak)
  int repeats = 5, warm_ups = 1;
  bool keep = false;             // also what the runs made
  std::string hardware, entity;  // of the file names; hardware "": found out
  std::string title, config_file;
  Path out;  // absolute
  config::RunConfig config;

  std::string label() const { return training.empty() ? stage : stage + "." + training; }
  bool is_weak() const { return mode == "weak"; }
  std::int64_t items_at(std::int64_t ranks) const { return is_weak() ? items * ranks : items; }
};

/// "pictures", "samples" or "images".
std::string unit_of(const std::string& stage);
/// Items that the configuration gives the stage. Throws what reading the plan's input or annotations throws.
std::int64_t configured_items(const config::RunConfig& config, const std::string& stage, const std::string& training);
const config::TrainSettings& training_of(const config::RunConfig& config, const std::string& name);

/// The configuration of one point: as many items, one training. Its run directory is the study's inputs. Throws
/// Error(Usage | Config) when the point cannot be.
config::RunConfig point_config(const ScalingPlan& plan, std::int64_t ranks);

/// Writes what the study is, or checks that it is the same as what stands there (more repetitions are welcome). Throws
/// Error(Config) when it is another one.
void freeze_study(const ScalingPlan& plan);
/// What freeze_study() wrote. Throws Error(Usage) when there is no study in the folder.
ScalingPlan read_study(const Path& out);

Path point_folder(const ScalingPlan& plan, std::int64_t ranks);
/// Runs of the study that are done, and those that failed.
std::vector<stages::ScalingRun> read_runs(const ScalingPlan& plan);
/// Repetitions of a point that are still to be made, the warm-up (0) first.
std::vector<int> open_repeats(const ScalingPlan& plan, std::int64_t ranks);

/// Makes what the point reads, then its open runs, each in a run directory of its own. Returns 0, or 75 when it was
/// asked to stop; failed runs are noted and passed over. Locks the point. Throws Error(Io | Data | Usage).
int run_point(const ScalingPlan& plan, std::int64_t ranks);

/// Results of all that is there, as CSV, JSON and a page; their common name without extension.
Path write_results(const ScalingPlan& plan);

/// Simulates these numbers of ranks, and the measured ones for comparison, and writes simulated.json. `from`: a run
/// directory, a distribution such as log-normal:2,0.3, or "" for the runs of the study.
void simulate_points(const ScalingPlan& plan, const std::vector<std::int64_t>& ranks, const std::string& from,
                     std::int64_t ranks_per_node);

}  // namespace divergen::driver
