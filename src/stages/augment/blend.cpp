#include "stages/augment/blend.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

struct Rect {
  int x0 = 0, y0 = 0, x1 = 0, y1 = 0;  // far sides exclusive
};

Rect clipped(int x0, int y0, int x1, int y1, const image::Image& canvas) {
  return {std::max(x0, 0), std::max(y0, 0), std::min(x1, canvas.width), std::min(y1, canvas.height)};
}

void blend_basic(image::Image& canvas, const image::Image& patch, int x, int y, const BoxMask& mask) {
  for (int row = 0; row < mask.bits.height; ++row) {
    const std::uint8_t* bits = mask.bits.at(row, 0);
    const std::uint8_t* from = patch.at(mask.y + row - y, mask.x - x);
    std::uint8_t* to = canvas.at(mask.y + row, mask.x);
    for (int column = 0; column < mask.bits.width; ++column, from += patch.channels, to += 3)
      if (bits[column] != 0) std::copy_n(from, 3, to);
  }
}

void blend_alpha(image::Image& canvas, const image::Image& patch, int x, int y) {
  DIVERGEN_CHECK(patch.channels == 4);
  const Rect r = clipped(x, y, x + patch.width, y + patch.height, canvas);
  for (int row = r.y0; row < r.y1; ++row)
    for (int column = r.x0; column < r.x1; ++column) {
      const std::uint8_t* from = patch.at(row - y, column - x);
      std::uint8_t* to = canvas.at(row, column);
      const double alpha = from[3] / 255.0;
      for (int c = 0; c < 3; ++c) to[c] = static_cast<std::uint8_t>(to[c] * (1 - alpha) + from[c] * alpha);
    }
}

/// OpenCV's reflect-101: the border pixel itself is not repeated.
int reflected(int i, int n) {
  if (n == 1) return 0;
  while (i < 0 || i >= n) i = i < 0 ? -i : 2 * (n - 1) - i;
  return i;
}

/// How many of the 5 × 5 neighbours of each pixel of `r` are in the mask, the canvas reflected at its borders.
std::vector<int> neighbours_in_mask(const BoxMask& mask, const Rect& r, const image::Image& canvas) {
  const auto width = static_cast<std::size_t>(r.x1 - r.x0);
  const auto row_at = [&](std::vector<int>& rows, int y) { return rows.data() + static_cast<std::size_t>(y) * width; };
  std::vector<int> along(width * static_cast<std::size_t>(mask.bits.height));
  for (int row = 0; row < mask.bits.height; ++row)
    for (int x = r.x0; x < r.x1; ++x)
      for (int d = -2; d <= 2; ++d) {
        const int column = reflected(x + d, canvas.width) - mask.x;
        if (column >= 0 && column < mask.bits.width) row_at(along, row)[x - r.x0] += *mask.bits.at(row, column);
      }
  std::vector<int> sums(width * static_cast<std::size_t>(r.y1 - r.y0));
  for (int y = r.y0; y < r.y1; ++y)
    for (int d = -2; d <= 2; ++d) {
      const int row = reflected(y + d, canvas.height) - mask.y;
      if (row < 0 || row >= mask.bits.height) continue;
      const int* source = row_at(along, row);
      int* target = row_at(sums, y - r.y0);
      for (std::size_t i = 0; i < width; ++i) target[i] += source[i];
    }
  return sums;
}

void blend_gaussian(image::Image& canvas, const image::Image& patch, int x, int y, const BoxMask& mask) {
  const Rect r = clipped(mask.x - 2, mask.y - 2, mask.x + mask.bits.width + 2, mask.y + mask.bits.height + 2, canvas);
  const std::vector<int> sums = neighbours_in_mask(mask, r, canvas);
  const int* sum = sums.data();
  for (int row = r.y0; row < r.y1; ++row)
    for (int column = r.x0; column < r.x1; ++column, ++sum) {
      const auto weight = static_cast<float>(*sum * (1.0 / 25.0));
      const float rest = 1.0F - weight;
      const int py = row - y, px = column - x;
      const bool is_inside = py >= 0 && py < patch.height && px >= 0 && px < patch.width;
      const std::uint8_t* from = is_inside ? patch.at(py, px) : nullptr;
      std::uint8_t* to = canvas.at(row, column);
      for (int c = 0; c < 3; ++c) {
        const float old_part = static_cast<float>(to[c]) * rest;
        const float new_part = (from != nullptr ? static_cast<float>(from[c]) : 0.0F) * weight;
        to[c] = static_cast<std::uint8_t>(old_part + new_part);
      }
    }
}

}  // namespace

Blend blend_of(const std::string& name) {
  if (name == "basic") return Blend::Basic;
  if (name == "alpha") return Blend::Alpha;
  if (name == "gaussian") return Blend::Gaussian;
  if (name == "poisson" || name == "possion") return Blend::Poisson;
  fail(ErrorKind::Config, {"there is no such way to blend", name, "", "use basic, alpha, gaussian or poisson"});
}

void blend(image::Image& canvas, const image::Image& patch, int x, int y, const BoxMask& mask, Blend how) {
  DIVERGEN_CHECK(canvas.channels == 3 && (patch.channels == 3 || patch.channels == 4));
  switch (how) {
    case Blend::Basic:
      return blend_basic(canvas, patch, x, y, mask);
    case Blend::Alpha:
      return blend_alpha(canvas, patch, x, y);
    case Blend::Gaussian:
      return blend_gaussian(canvas, patch, x, y, mask);
    case Blend::Poisson:
      return blend_poisson(canvas, patch, x, y, mask);
  }
}

}  // namespace divergen::stages
