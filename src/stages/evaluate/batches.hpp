#pragma once
// Which images are detected together. No LibTorch.
//
// The membership of a batch is a function of the data set and the settings alone: convolutions over other batches
// differ in the last bits, and the result must not depend on the number of ranks.

#include <array>
#include <cstdint>
#include <vector>

#include "config/settings.hpp"
#include "lvis/dataset.hpp"

namespace divergen::stages {

/// (height, width) that detectron2's ResizeShortestEdge gives (reference/detector.md §3): the short side becomes
/// `short_side` unless the long one would exceed `long_side`.
std::array<std::int64_t, 2> shortest_edge(std::int64_t height, std::int64_t width, std::int64_t short_side,
                                          std::int64_t long_side);

/// Indices into dataset.images. Images of a batch have the same size after resizing and padding to a multiple of 32;
/// batches are ordered by their first image.
std::vector<std::vector<std::size_t>> make_batches(const lvis::Dataset& dataset,
                                                   const config::EvaluateSettings& settings);

}  // namespace divergen::stages
