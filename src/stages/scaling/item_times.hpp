#pragma once
// How long an item takes in a simulated run: recorded in a real run, or stated.

#include <string>
#include <string_view>
#include <vector>

#include "base/histogram.hpp"
#include "stages/common/run_directory.hpp"

namespace divergen::stages {

class ItemTimes {
 public:
  static ItemTimes constant(double seconds);
  static ItemTimes uniform(double low, double high);
  /// Equally likely in each octave: "spread 1:50" is log_uniform(t, 50 t).
  static ItemTimes log_uniform(double low, double high);
  static ItemTimes log_normal(double median, double sigma);
  /// What a stage's record holds: means of whole shards, so each draw is of a whole shard, that is, items of a shard
  /// are taken to be as long as each other (the harder case for balance).
  static ItemTimes recorded(const LogHistogram& seconds, std::string source);
  /// "constant:0.1" | "uniform:0.1,0.3" | "log-uniform:0.02,1" | "log-normal:0.5,0.4" (seconds; median and sigma).
  /// Throws Error(Usage).
  static ItemTimes parse(std::string_view text);
  /// Of a run directory's stage (StageRecord::item_seconds). Throws Error(Data) when the stage is not complete or its
  /// record holds no times.
  static ItemTimes of_run(const RunDirectory& dir, const std::string& stage);
  /// From a file that write_item_times() wrote. Throws Error(Io | Data).
  static ItemTimes of_file(const Path& file);

  /// The same spread around another mean: measured on small models, for large ones.
  ItemTimes scaled_to(double mean) const;

  /// Seconds below which a share u (0 .. 1) of all items lies: draws when u is uniform.
  double quantile(double u) const;
  double mean() const { return mean_; }
  bool per_shard() const { return per_shard_; }
  /// For people: "log-uniform from 0.02 s to 1 s", "recorded: generate of runs/mini, 54 shards".
  const std::string& text() const { return text_; }

 private:
  explicit ItemTimes(std::string text) : text_(std::move(text)) {}
  void tabulate(const std::vector<double>& points);

  std::string text_;
  std::vector<double> table_;  // equally spaced quantiles, from 0 to 1
  double mean_ = 0;
  bool per_shard_ = false;
};

/// Times of a real run as a small file of its own: bins, source. Atomically. Throws Error(Io | NoSpace).
void write_item_times(const LogHistogram& seconds, const std::string& source, const Path& file);

}  // namespace divergen::stages
