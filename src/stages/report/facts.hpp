#pragma once
// Everything that a run directory tells, gathered once; what is missing or damaged is noted, never thrown.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "stages/common/run_directory.hpp"
#include "store/library.hpp"

namespace divergen::stages::report {

struct CategoryFact {
  std::int64_t id = 0;
  std::string name;       // with spaces
  std::string frequency;  // "r", "c", "f", "" where unknown
  bool is_extra = false;
};

/// One of evaluate/<name>/metrics.json. AP values as fractions; -1: nothing to average.
struct EvaluationFact {
  std::string name;
  bool uses_pool = false;
  std::map<std::string, double> box, mask;
  std::map<std::int64_t, double> category_box, category_mask;
};

/// The journal of one training, a column a key; NaN where a line lacks it.
struct TrainingFact {
  std::string name;
  bool uses_pool = false;
  std::map<std::string, std::vector<double>> columns;
  std::size_t lines = 0;
  /// Empty when there is no such column.
  const std::vector<double>& column(const std::string& key) const;
};

struct LibraryFact {
  std::size_t instances = 0;
  std::string hash;
  store::LibraryTables tables;
  std::map<std::int64_t, std::int64_t> per_category, per_generator;
  std::uint64_t bytes = 0;  // of all its files
};

/// What the pictures of one generator were made with, from the shards themselves.
struct GeneratorFact {
  std::string name, kind, sampler, steps, guidance, weights_hash;
};

struct RunFacts {
  std::string title;
  Path root;
  std::vector<CategoryFact> categories;
  std::vector<StageRecord> records;
  std::vector<EvaluationFact> evaluations;  // in the order of the configuration, then by name
  std::vector<TrainingFact> trainings;      // the same
  std::optional<LibraryFact> library;
  std::vector<GeneratorFact> generators;
  std::string annotator_hash, clip_hash;
  std::string config_text, config_hash, software;
  std::vector<std::string> missing;   // "training divergen has not begun"
  std::vector<std::string> problems;  // "the record of generate is damaged: ..."

  const EvaluationFact* without() const;  // the first evaluation of a training without generated instances
  const EvaluationFact* with() const;     // "divergen", or the last evaluation of a training with them
  const CategoryFact* category(std::int64_t id) const;
  const StageRecord* record(const std::string& stage) const;
  /// Whether the record is of a pass ("filter.scores") that the record of its stage ("filter") counts in.
  bool is_pass(const StageRecord& of) const;
};

RunFacts gather(const RunDirectory& dir, const config::RunConfig& config);

/// AP as the paper prints it: percent with one digit; an en dash for -1.
std::string percent(double fraction);
/// "+3.2", "−0.4"; an en dash when either is missing.
std::string gain(double before, double after);
/// The value of a summary, or -1.
double value_of(const std::map<std::string, double>& summary, const std::string& key);

}  // namespace divergen::stages::report
