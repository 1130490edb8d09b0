#pragma once
// Arithmetic on boxes and masks of the detector, without parameters; semantics of detectron2
// (reference/detector.md §6-§8). Boxes are x0, y0, x1, y1 in pixels, float32. All functions are pure and thread-safe.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <span>
#include <utility>
#include <vector>

namespace divergen::models {

/// Boxes as offsets from other boxes (Box2BoxTransform): (dx, dy) of the centres in units of the box's size, (dw, dh)
/// logarithms of the ratios of sizes, each times its weight.
struct BoxTransform {
  std::array<double, 4> weights;
  /// [n, 4] of boxes `from` (with positive sides) to boxes `to`.
  at::Tensor deltas(const at::Tensor& from, const at::Tensor& to) const;
  /// deltas [n, 4] applied to boxes [n, 4]; dw and dh are limited to log(1000/16), detectron2's constant.
  at::Tensor apply(const at::Tensor& deltas, const at::Tensor& boxes) const;
};

/// Areas [n] (negative sides are not caught).
at::Tensor box_areas(const at::Tensor& boxes);
/// [n, m] of a [n, 4] and b [m, 4]; 0 where the boxes do not overlap.
at::Tensor box_iou(const at::Tensor& a, const at::Tensor& b);
/// Boxes cut to an image of height x width pixels.
at::Tensor clip_boxes(const at::Tensor& boxes, std::int64_t height, std::int64_t width);
/// bool [n]: both sides are positive.
at::Tensor nonempty_boxes(const at::Tensor& boxes);

struct Match {
  at::Tensor index;  // int64 [P]: the best row (the first on ties; 0 without rows)
  at::Tensor label;  // int8 [P]: 1 = its IoU is at least the threshold, 0 = it is not
};

/// iou [G, P]: each of P boxes to one of G truths (Matcher([threshold], [0, 1]) without low-quality matches).
Match match(const at::Tensor& iou, double threshold);

/// Draws up to `count` indices from classes [n], at most int(count · foreground) of them not `background_class` (those
/// of class -1 are never drawn), and the rest background: (foreground, background) indices, each in the order drawn.
/// Two draws of randperm from `generator`, foreground first, also where there is nothing to draw.
std::pair<at::Tensor, at::Tensor> subsample_labels(const at::Tensor& classes, std::int64_t count, double foreground,
                                                   std::int64_t background_class, at::Generator& generator);

/// int64 [n]: the pyramid level that boxes are pooled from, floor(4 + log2(sqrt(area) / 224 + 1e-8)) within
/// [lowest, highest] (the constants are those of the FPN paper, as in detectron2).
at::Tensor assign_levels(const at::Tensor& boxes, std::int64_t lowest, std::int64_t highest);

/// RoIAlign of every RoI ([R, 5]: image, box) from its level of the pyramid: features[i] [N, C, H_i, W_i] is level
/// lowest + i, of stride 2^(lowest + i). Gives [R, C, pooled, pooled]; differentiable in the features.
at::Tensor pool_rois(std::span<const at::Tensor> features, const at::Tensor& rois, std::int64_t pooled,
                     std::int64_t lowest = 3);

struct ScoredBoxes {
  at::Tensor boxes;    // [d, 4], cut to the image
  at::Tensor scores;   // [d], descending
  at::Tensor classes;  // int64 [d]
  at::Tensor rows;     // int64 [d]: row of the input that the box came from, not counting rows that are not finite
};

/// fast_rcnn_inference of one image: boxes [R, 4], scores [R, C + 1], the last column (background) is ignored. Rows
/// with anything not finite go; pairs (row, class) with a score > score_threshold are suppressed per class with
/// `nms_threshold`, and the `limit` best stay (all if negative).
ScoredBoxes select_detections(const at::Tensor& boxes, const at::Tensor& scores, std::array<std::int64_t, 2> image_size,
                              double score_threshold, double nms_threshold, std::int64_t limit);

/// Boxes of an image of size `from` (height, width) in one of size `to`, cut to it (DiverGen's detector_postprocess;
/// the caller then drops what is not nonempty_boxes).
at::Tensor rescale_boxes(const at::Tensor& boxes, std::array<std::int64_t, 2> from, std::array<std::int64_t, 2> to);

/// Mask probabilities [d, m, m] of boxes [d, 4] -> bool [d, height, width] on the CPU: bilinear at pixel centres, zero
/// outside, inside where >= threshold (> 0; paste_masks_in_image). Only the pixels of the boxes are computed; parallel
/// over the masks.
at::Tensor paste_masks(const at::Tensor& probabilities, const at::Tensor& boxes, std::int64_t height,
                       std::int64_t width, double threshold);

/// Targets of the mask head: masks [n, H, W] (bool or uint8) within boxes [n, 4] -> bool [n, side, side]
/// (BitMasks.crop_and_resize: RoIAlign with adaptive sampling, inside where >= 0.5).
at::Tensor crop_masks(const at::Tensor& masks, const at::Tensor& boxes, std::int64_t side);

/// The same from polygons, by COCO's rule on a grid of the box (rasterize_polygons_within_box). polygons[i]: the parts
/// of object i, each x0, y0, x1, y1, ... in pixels. bool [n, side, side] on the CPU.
at::Tensor raster_polygons(std::span<const std::vector<std::vector<double>>> polygons, const at::Tensor& boxes,
                           std::int64_t side);

}  // namespace divergen::models
