#pragma once
// Non-maximum suppression as torchvision does it (reference/detector.md §8).

#include <ATen/core/Tensor.h>

namespace divergen::nn {

/// boxes [n, 4] (x0, y0, x1, y1), scores [n] -> indices of the kept boxes, int64, by descending score (equal scores in
/// order of index). In that order a box goes iff its IoU with a kept one is > threshold; the IoU of two boxes without
/// area is 0/0, which is not. Same device as boxes; a CUDA device is synchronised. Thread-safe.
at::Tensor nms(const at::Tensor& boxes, const at::Tensor& scores, double threshold);

/// Boxes of different classes ([n], integers) never suppress each other. As torchvision, few boxes (up to 1000 on the
/// CPU, 25000 on a GPU) are moved apart by class · (largest coordinate + 1), whose rounding can decide IoUs at the
/// threshold, and many go class by class: this choice is part of the result.
at::Tensor batched_nms(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& classes, double threshold);

/// nms out of ATen operators, on any device: the matrix of suppressions, then rounds of "kept iff no kept box before it
/// suppresses it" until nothing changes, which is the greedy answer (the first i boxes are right after i rounds). Takes
/// n² bytes a few times over.
at::Tensor nms_composed(const at::Tensor& boxes, const at::Tensor& scores, double threshold);

}  // namespace divergen::nn
