#pragma once
// LVIS average precision with the exact semantics of lvis-api (reference/lvis-evaluation.md §1; the numbered rules
// there are cited in evaluator.cpp).

#include <array>
#include <map>
#include <string>
#include <vector>

#include "lvis/dataset.hpp"

namespace divergen::lvis {

enum class IouType { Box, Mask };

struct Detection {
  std::int64_t image_id = 0, category_id = 0;
  double score = 0;
  std::array<double, 4> box{};  // x, y, width, height
  double area = 0;              // by the rule of the results' format: of the box, or of the mask
  mask::Rle rle;                // for IouType::Mask
};

/// The thirteen summaries, as fractions; -1 where there is nothing to average.
struct Summary {
  static constexpr std::array<const char*, 13> kNames{"AP",  "AP50", "AP75",   "APs",     "APm",     "APl",    "APr",
                                                      "APc", "APf",  "AR@300", "ARs@300", "ARm@300", "ARl@300"};
  std::array<double, 13> values{};
  double operator[](std::string_view name) const;
};

struct Evaluation {
  Summary summary;
  std::map<std::int64_t, double>
      category_ap;  // by category id; mean over thresholds and recalls, -1 without ground truth
  // Precision [threshold 10][recall 101][category][area 4] and recall [threshold][category][area], -1 where absent.
  std::vector<double> precision, recall;
};

/// Detections in file order. Rules 1-3 (the cut to 300 an image) are applied here. Throws Error(Data) for detections of
/// unknown images and ground truth without federated lists or frequencies.
Evaluation evaluate(const Dataset& truth, std::vector<Detection> detections, IouType type);

/// A results file. Throws Error(Data) naming file, entry and field.
std::vector<Detection> read_results(const Path& file, const Dataset& truth, IouType type);

}  // namespace divergen::lvis
