#pragma once
// What the pipeline needs of OpenCV, with OpenCV's exact results: linear resize, box blur, contours, affine warps.

#include <array>

#include "image/image.hpp"

namespace divergen::image {

/// cv::resize INTER_LINEAR: no antialias, not premultiplied (reference/semantics.md §7.5).
Image resize_linear(const Image& image, int height, int width);

/// cv::resize INTER_AREA, for thumbnails.
Image resize_area(const Image& image, int height, int width);

/// cv::blur with a size × size box, reflect-101 border; uint8 results round half up (reference/augmentation.md §2).
Image box_blur(const Image& image, int size);

/// A filled polygon and its tight box.
struct Component {
  Image mask;                               // 0 / 255, size of the input
  int x = 0, y = 0, width = 0, height = 0;  // tight box of `mask`
  double contour_area = 0;
};

/// The external contour with the largest polygon area among pixels > threshold, filled (holes included). Of equal areas
/// the one that starts last in raster order wins. Nothing when no pixel is set.
std::optional<Component> largest_component(const Image& grey, int threshold);

/// Outer and inner boundaries of the set pixels as point lists (x0, y0, x1, y1, …) at pixel centres.
std::vector<std::vector<double>> trace_contours(const Image& mask);

/// Affine warp: output pixel (x, y) samples the input at m · (x, y, 1). Bilinear, zero outside; RGBA is premultiplied
/// for the sampling, so that transparent pixels do not bleed colour.
Image warp_affine(const Image& image, const std::array<double, 6>& m, int height, int width);

}  // namespace divergen::image
