#pragma once
// Where everything of a run lies, and what each stage says of itself when it is done.
//
//   config.toml                        effective configuration with each value's origin
//   plan.h5                            the frozen item list
//   generate/shard-000000.h5           pictures            (table "divergen-pictures")
//   annotate/shard-000000.h5           masks               (table "divergen-masks")
//   filter.reference/shard-000000.h5   sums of CLIP features of real crops, from which comes
//   filter/reference.h5                their means of each category (table "divergen-reference")
//   filter.scores/shard-000000.h5      similarity, CLIP score, area (table "divergen-scores")
//   filter/shard-000000.h5             scores and verdicts (table "divergen-verdicts")
//   pool/shard-000000.h5, index.h5     the instance library (store/library.hpp)
//   train/<name>/                      log.jsonl, checkpoints/, samples/, model.safetensors
//   evaluate/<name>/                   results.bbox.json, results.segm.json, metrics.json, pictures/
//   fused.cutouts/shard-000000.h5      instead of generate, annotate and filter.scores when run.fused: scores and
//   cut-outs <stage>/kept-000000.h5             rows that `divergen repair` found whole in a damaged shard
//   (store/salvage.hpp) plan.retries.h5                    further samples of rejected items (plan/retries.hpp)
//   canary.json                        bits of fixed items by model and kind of device (common/shard_canary.hpp)
//   stages/<stage>[.<name>].json       StageRecord: written when the stage is complete
//   progress/<stage>.json              how far a stage at work is (watch.hpp); metrics.prom for Prometheus
//   slurm/                             scripts and configuration that `divergen submit` wrote, and its jobs
//   logs/<stage>.rank-<r>.log
//   metrics.json, report.html
//
// A stage whose record stands, with the fingerprint of its inputs, does nothing when started again.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "base/histogram.hpp"

namespace divergen::stages {

/// What one rank did in a stage.
struct RankShare {
  int rank = 0;
  std::string host;
  std::int64_t items = 0;
  double busy_seconds = 0;    // computing, loading included
  double start = 0, end = 0;  // seconds since the epoch, of this rank's first and last claim
  double wait_seconds = 0;    // from the first claim of all to the end of the last: without work, or at claiming
  std::string device;         // "cuda:1 NVIDIA H100"; empty: the CPU
  std::string quarantined;    // why it was not to work (any more); empty: it was well
};

struct StageRecord {
  std::string stage;                             // "generate", or "train.baseline"
  std::string fingerprint;                       // hash of what the result depends on
  double seconds = 0;                            // wall clock, summed over restarts where it is known
  std::int64_t items = 0;                        // of this stage in all, also those made by earlier starts
  std::map<std::string, std::int64_t> rejected;  // reason -> number
  std::vector<RankShare> ranks;                  // of the last start
  LogHistogram item_seconds;              // seconds an item, one entry a shard made (its mean); of the last start
  std::vector<std::string> parts;         // fingerprints of a grown plan's rounds; empty: it did not grow
  std::map<std::string, double> figures;  // anything else worth a number: "bytes", "images_per_second"
};

/// The rank that took longest for an item while it was at work, and how many times as long as the median of the ranks.
struct Straggler {
  const RankShare* share = nullptr;
  double times = 1;
};
/// Nothing of fewer than two ranks with items.
std::optional<Straggler> straggler_of(const StageRecord& record);
/// "; slowest rank 3 on n7 (cuda:1): 1.80 times the median's time for an item", or "".
std::string straggler_text(const StageRecord& record);

class RunDirectory {
 public:
  explicit RunDirectory(Path root) : root_(std::move(root)) {}
  const Path& root() const { return root_; }
  Path config() const { return root_ / "config.toml"; }
  Path plan() const { return root_ / "plan.h5"; }
  Path retries() const { return root_ / "plan.retries.h5"; }
  Path shard(const std::string& stage, std::size_t index) const;  // "<stage>/shard-000012.h5"
  Path reference() const { return root_ / "filter/reference.h5"; }
  Path library() const { return root_ / "pool"; }
  Path training(const std::string& name) const { return root_ / "train" / name; }
  Path evaluation(const std::string& name) const { return root_ / "evaluate" / name; }
  Path record(const std::string& stage) const { return root_ / "stages" / (stage + ".json"); }
  Path metrics() const { return root_ / "metrics.json"; }
  Path report() const { return root_ / "report.html"; }
  Path stop_file() const { return root_ / "STOP"; }  // its presence asks a running stage to stop soon

 private:
  Path root_;
};

/// Removes what killed starts left half written beside the run's own files (plan, records, progress); each stage sweeps
/// its own folder. For who holds the run's lock. Returns how many.
std::size_t sweep_run_folder(const RunDirectory& dir);

/// Atomically. Throws Error(Io | NoSpace).
void write_record(const RunDirectory& dir, const StageRecord& record);
/// Nothing when the stage has not been completed. Throws Error(Data) when the file is damaged.
std::optional<StageRecord> read_record(const RunDirectory& dir, const std::string& stage);
/// Names of the stages that have a record ("train.baseline"), in the order of the stages.
std::vector<std::string> recorded_stages(const RunDirectory& dir);
/// All records there are, in the order of the stages. Throws Error(Data) when one is damaged.
std::vector<StageRecord> read_records(const RunDirectory& dir);

}  // namespace divergen::stages
