#pragma once
// Ground truth and detections beside each other, to look at. No LibTorch.

#include <vector>

#include "lvis/evaluator.hpp"
#include "stages/augment/types.hpp"
#include "stages/train/tensorboard.hpp"

namespace divergen::stages {

/// Indices of up to `count` images with annotations: half of them with a rare category where there are enough, the rest
/// spread evenly over the data set.
std::vector<std::size_t> choose_pictures(const lvis::Dataset& dataset, std::size_t count);

/// Writes <folder>/val-<image id>.png for each chosen image: left the ground truth, right the detections with a score
/// of at least `least_score`. `detections` of other images do not matter. Unreadable images are left out. What is
/// written goes into the event file too, at `step`.
void write_evaluation_pictures(const lvis::Dataset& dataset, const Path& images, const ClassMap& classes,
                               const std::vector<lvis::Detection>& detections, const std::vector<std::size_t>& chosen,
                               double least_score, const Path& folder, EventFile& events, std::int64_t step);

}  // namespace divergen::stages
