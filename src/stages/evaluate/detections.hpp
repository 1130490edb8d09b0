#pragma once
// From the detector's output to detections as the evaluator takes them.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "lvis/evaluator.hpp"
#include "models/detector/centernet2.hpp"
#include "stages/augment/types.hpp"

namespace divergen::stages {

/// Run lengths of a full-size mask (row-major bytes, nonzero is inside) that is empty outside columns [x0, x1) and rows
/// [y0, y1), of which alone it is read.
mask::Rle encode_in_box(const std::uint8_t* bitmap, std::int64_t height, std::int64_t width, std::int64_t x0,
                        std::int64_t y0, std::int64_t x1, std::int64_t y1);

/// In the detector's order (by descending score). `box` is the detector's, in float32 arithmetic as detectron2 writes
/// it; `area` is the mask's.
std::vector<lvis::Detection> to_lvis(const models::Detections& detections, std::int64_t image_id,
                                     const ClassMap& classes);

}  // namespace divergen::stages
