#pragma once
// Precision and recall of all categories that have ground truth. Private to src/lvis.

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "lvis/evaluator.hpp"

namespace divergen::lvis {

/// numpy.linspace(0.5, 0.95, 10) and linspace(0, 1, 101) (rule 14).
std::array<double, kThresholds> iou_thresholds();
std::array<double, kRecalls> recall_thresholds();
/// numpy's pairwise summation: eight accumulators, blocks of 128, halves rounded down to a multiple of eight.
double pairwise_sum(const double* a, std::size_t n);

class Curves {
 public:
  static constexpr std::size_t kCells = kThresholds * kRecalls;

  explicit Curves(const TruthTable& truth);

  std::size_t levels() const { return levels_; }
  static std::span<const std::uint32_t> most_per_cell(Protocol protocol);  // detections of an image and category
  /// Of detections in order of descending score, at most most_per_cell()[level] of each image. Different categories may
  /// be filled by different threads.
  void fill(std::size_t category, std::size_t area, std::size_t level, std::span<const Verdict> verdicts);

  Summary summary(const Dataset& dataset, unsigned threads) const;
  CategoryScores scores(std::size_t category) const;
  std::vector<double> precision() const;
  std::vector<double> recall() const;

 private:
  std::size_t plane(std::size_t area, std::size_t level) const { return area * levels_ + level; }
  double mean_precision(std::span<const std::uint32_t> columns, std::size_t area,
                        std::optional<std::size_t> threshold) const;
  double mean_recall(std::size_t area, std::size_t level) const;

  Protocol protocol_;
  std::size_t categories_, levels_;
  std::array<std::vector<std::uint32_t>, kAreas> present_;  // categories with ground truth
  std::vector<std::array<std::uint32_t, kAreas>> column_;   // by category: its place in present_
  std::vector<std::array<std::int64_t, kAreas>> positives_;
  // By plane: a row of kCells precisions, and kThresholds recalls, for each present category.
  std::vector<std::vector<double>> precision_, recall_;
};

}  // namespace divergen::lvis
