#pragma once
// RoIAlign: features of boxes of any size, averaged from bilinear samples into a fixed grid of bins.

#include <ATen/core/Tensor.h>

#include <array>

namespace divergen::nn {

/// features [N, C, H, W], rois [R, 5] = index of the image, x0, y0, x1, y1 in input pixels; gives
/// [R, C, pooled[0], pooled[1]] (rows, columns). `scale` takes input pixels to features (1/stride); `sampling_ratio`
/// samples are taken per bin and axis, 0: as many as the bin has feature pixels, rounded up.
///
/// torchvision's roi_align with aligned = true, which is detectron2's ROIAlignV2 (reference/detector.md §8): on the CPU
/// equal to it bit for bit in the forward direction, because the sums run in its order. Differentiable in features; the
/// gradient does not depend on the number of threads. features: float32 or float64; bool and uint8 (masks) are read as
/// they are and give float32 without a gradient. RoIs that are not finite give zeros. Thread-safe; on a CUDA device it
/// is roi_align_composed.
at::Tensor roi_align(const at::Tensor& features, const at::Tensor& rois, std::array<std::int64_t, 2> pooled,
                     double scale, std::int64_t sampling_ratio);

inline at::Tensor roi_align(const at::Tensor& features, const at::Tensor& rois, std::int64_t pooled, double scale,
                            std::int64_t sampling_ratio) {
  return roi_align(features, rois, std::array{pooled, pooled}, scale, sampling_ratio);
}

/// The same out of ATen operators, on any device: the average over a grid of bilinear samples is a product of one
/// matrix for the rows and one for the columns. Sums in another order (1e-6 apart), deterministic, and ATen's own
/// autograd.
at::Tensor roi_align_composed(const at::Tensor& features, const at::Tensor& rois, std::array<std::int64_t, 2> pooled,
                              double scale, std::int64_t sampling_ratio);

}  // namespace divergen::nn
