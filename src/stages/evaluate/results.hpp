#pragma once
// What an evaluation leaves behind: results files that lvis-api reads, and metrics. No LibTorch.

#include <vector>

#include "base/fs.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::stages {

/// Writes a results file atomically, in the order given: boxes for IouType::Box, run-length masks and no boxes for
/// IouType::Mask, so that lvis-api takes a mask's area (reference/lvis-evaluation.md §1, rule 2). Numbers read back to
/// the same doubles.
void write_results(const Path& file, const std::vector<lvis::Detection>& detections, lvis::IouType type);

/// The detections as lvis-api would have them from such a file: `area` and `box` by that rule; no mask for boxes.
std::vector<lvis::Detection> as_read(std::vector<lvis::Detection> detections, lvis::IouType type);

/// {"bbox": {"AP": ...}, "segm": {...}, "per_category": {"bbox": {"<id>": ap}, "segm": {...}}}, atomically.
void write_metrics(const Path& file, const lvis::Evaluation& box, const lvis::Evaluation& mask);

}  // namespace divergen::stages
