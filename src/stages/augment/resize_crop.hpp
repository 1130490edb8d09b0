#pragma once
// Large-scale jitter: the training image under EfficientDetResizeCrop and a horizontal flip, and what becomes of its
// annotations (reference/semantics.md §7.2, reference/detector.md §3).

#include <array>
#include <optional>
#include <vector>

#include "lvis/dataset.hpp"
#include "stages/augment/draws.hpp"
#include "stages/augment/types.hpp"

namespace divergen::stages {

struct ResizeCropRules {
  int size = 896;  // side of the square that the image is fitted to before `scale`, and cropped to after
  double scale_low = 0.1, scale_high = 2.0;
  double flip = 0.5;  // probability
};

/// Resize to scaled_height × scaled_width, crop height × width at the offset, flip. No padding: the result may be
/// smaller than the square. Coordinates use the unrounded `scale`, as the reference's do.
struct ResizeCrop {
  double scale = 1;
  int scaled_height = 0, scaled_width = 0;
  int offset_y = 0, offset_x = 0;
  int height = 0, width = 0;
  bool flip = false;
};

/// For an image of height × width pixels. Four draws, always: scale, offset y, offset x, flip.
ResizeCrop draw_resize_crop(int height, int width, const ResizeCropRules& rules, Draws& draws);

/// Pillow's bilinear filter, antialiased. Any number of channels.
image::Image apply(const ResizeCrop& transform, const image::Image& image);
/// Of a 0 / 1 mask: nearest pixel.
image::Image apply_to_mask(const ResizeCrop& transform, const image::Image& mask);
/// x, y, width, height of the source image -> x0 y0 x1 y1, clipped to the output. The far corner is computed in
/// float32, as the reference computes it.
std::array<double, 4> apply_to_box(const ResizeCrop& transform, const std::array<double, 4>& xywh);
/// Points may lie outside the output.
std::vector<double> apply_to_polygon(const ResizeCrop& transform, const std::vector<double>& xy);

/// The annotation's object on the output, class `cls`; nothing where no box or mask is left of it.
std::optional<SampleObject> apply_to_annotation(const ResizeCrop& transform, const lvis::Annotation& annotation,
                                                std::int64_t cls);
/// The same with polygons in place of the mask; nothing where no box is left, or where the annotation has no polygon:
/// detectron2 does not look whether pixels are left of them (reference/detector.md §3).
std::optional<SampleObject> apply_to_polygons(const ResizeCrop& transform, const lvis::Annotation& annotation,
                                              std::int64_t cls);

}  // namespace divergen::stages
