#pragma once
// Ground truth of the detector's training images.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace divergen::models {

/// Ground truth of one training image, in pixels of that image.
struct DetectorTruth {
  at::Tensor boxes;    // [n, 4] float32, x0 y0 x1 y1
  at::Tensor classes;  // [n] int64, 0-based
  at::Tensor masks;    // [n, H, W] bool or uint8; need not be defined where polygons are given
  /// The baseline's other form of masks: of each object its parts, each x0, y0, x1, y1, ... Where there are any,
  /// targets of the mask head are rasterised from them within each RoI, and `masks` is not read.
  std::vector<std::vector<std::vector<double>>> polygons;
};

}  // namespace divergen::models
