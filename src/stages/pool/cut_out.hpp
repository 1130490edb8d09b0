#pragma once
// One instance out of a generated picture and its mask.

#include <cstdint>

#include "image/image.hpp"

namespace divergen::stages {

/// Why a mask gives no instance.
enum class CutProblem {
  None,
  Empty,  // no pixel above the threshold
  Thin,   // a box of one pixel's width or height
};

struct CutOut {
  CutProblem problem = CutProblem::None;
  image::Image rgba;      // the crop; colours under transparent pixels are kept
  int x = 0, y = 0;       // its place in the picture
  std::int64_t area = 0;  // pixels with alpha above the threshold
  bool touches_border = false;
  bool parts_dropped = false;  // pixels above the threshold lay outside the part that is kept
};

/// DiverGen's rule (reference/semantics.md §6): of the pixels above `threshold` the part with the largest contour area,
/// filled; alpha is the mask's grey level inside it (so real holes stay holes) and 0 outside; cropped to the part's
/// box. `rgb` has three channels, `mask` one, both of one size.
CutOut cut_out(const image::Image& rgb, const image::Image& mask, int threshold);

}  // namespace divergen::stages
