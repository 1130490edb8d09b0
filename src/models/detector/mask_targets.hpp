#pragma once
// What the mask head is to predict for a RoI (reference/detector.md §7, point 6).

#include "models/detector/truth.hpp"

namespace divergen::models {

constexpr std::int64_t kMaskSide = 28;

/// bool [n, 28, 28]: object `objects[i]` (int64 [n]) of the image within boxes[i] ([n, 4], pixels), on the boxes'
/// device.
at::Tensor mask_targets(const DetectorTruth& truth, const at::Tensor& objects, const at::Tensor& boxes);

}  // namespace divergen::models
