// Rasterisation of polygons by COCO's rule (cocoapi, rleFrPoly): the outline is traced on a grid five times finer than
// the pixels, and where it steps from sub-column 5k+2 to 5k+3 (or back), which is the middle of pixel column k, the
// inside of the mask begins or ends at the pixel that the height there rounds to.
//
// The rule walks over every point of the outline. Only the points at the middles of columns matter, and each can be
// computed by itself with the very arithmetic of the walk; so the cost is that of the columns crossed, not of the
// points.

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "mask/builder.hpp"
#include "mask/text.hpp"

namespace divergen::mask {
namespace {

constexpr double kScale = 5;
constexpr double kLimit = 1e7;  // px; beyond it the outline alone would not fit in memory of the reference

class Outline {
 public:
  Outline(std::int64_t height, std::int64_t width, std::vector<std::uint32_t>& crossings)
      : height_(height), width_(width), crossings_(crossings) {}

  /// An edge between points of the fine grid.
  void edge(std::int64_t xs, std::int64_t ys, std::int64_t xe, std::int64_t ye) {
    if (xs == xe) return;  // no sub-column is left
    const std::int64_t dx = std::abs(xe - xs), dy = std::abs(ye - ys);
    if (dx >= dy) {
      if (xs > xe) std::swap(xs, xe), std::swap(ys, ye);
      flat(xs, ys, xe, static_cast<double>(ye - ys) / static_cast<double>(dx));
    } else {
      if (ys > ye) std::swap(xs, xe), std::swap(ys, ye);
      steep(xs, ys, xe, ye, static_cast<double>(xe - xs) / static_cast<double>(dy));
    }
  }

 private:
  /// Point t of the walk is (xs + t, v(t)).
  void flat(std::int64_t xs, std::int64_t ys, std::int64_t xe, double slope) {
    const auto v = [&](std::int64_t u) {
      return static_cast<std::int64_t>(static_cast<double>(ys) + slope * static_cast<double>(u - xs) + 0.5);
    };
    const std::int64_t last = std::min(last_column(xe), width_ - 1);
    for (std::int64_t k = first_column(xs); k <= last; ++k) put(k, std::min(v(5 * k + 2), v(5 * k + 3)));
  }

  /// Point t of the walk is (u(t), ys + t), u rising or falling.
  void steep(std::int64_t xs, std::int64_t ys, std::int64_t xe, std::int64_t ye, double slope) {
    const auto u = [&](std::int64_t t) {
      return static_cast<std::int64_t>(static_cast<double>(xs) + slope * static_cast<double>(t) + 0.5);
    };
    const std::int64_t length = ye - ys, left = std::min(xs, xe), right = std::max(xs, xe);
    const bool rises = slope > 0;
    const std::int64_t last = std::min(last_column(right), width_ - 1);
    for (std::int64_t k = first_column(left); k <= last; ++k) {
      const std::int64_t low = 5 * k + 2;
      // t: the last point on the side where the edge comes from. Estimated, then corrected by the walk's own rounding.
      auto t = static_cast<std::int64_t>((static_cast<double>(low) + 0.5 - static_cast<double>(xs)) / slope);
      t = std::clamp<std::int64_t>(t, 0, length - 1);
      if (rises) {
        while (t > 0 && u(t) > low) --t;
        while (t + 1 < length && u(t + 1) <= low) ++t;
      } else {
        while (t > 0 && u(t) <= low) --t;
        while (t + 1 < length && u(t + 1) > low) ++t;
      }
      put(k, ys + t);
    }
  }

  /// First and last pixel column whose middle lies between the sub-columns `from` and `to`.
  static std::int64_t first_column(std::int64_t from) { return from <= 2 ? 0 : (from + 2) / 5; }
  static std::int64_t last_column(std::int64_t to) { return to < 3 ? -1 : (to - 3) / 5; }

  void put(std::int64_t column, std::int64_t v) {
    const double y =
        std::ceil(std::clamp((static_cast<double>(v) + 0.5) / kScale - 0.5, 0.0, static_cast<double>(height_)));
    crossings_.push_back(static_cast<std::uint32_t>(column * height_ + static_cast<std::int64_t>(y)));
  }

  std::int64_t height_, width_;
  std::vector<std::uint32_t>& crossings_;
};

std::int64_t on_fine_grid(double value) {
  if (!(std::abs(value) < kLimit)) refuse(cat("a polygon has the coordinate ", value));
  return static_cast<std::int64_t>(kScale * value + 0.5);
}

}  // namespace

Rle from_polygon(std::span<const double> xy, std::int64_t height, std::int64_t width) {
  check_size(height, width);
  thread_local std::vector<std::uint32_t> crossings;
  crossings.clear();
  const std::size_t n = xy.size() / 2;
  if (n > 0) {
    Outline outline(height, width, crossings);
    const std::int64_t x0 = on_fine_grid(xy[0]), y0 = on_fine_grid(xy[1]);
    std::int64_t x = x0, y = y0;
    for (std::size_t j = 1; j < n; ++j) {
      const std::int64_t xe = on_fine_grid(xy[2 * j]), ye = on_fine_grid(xy[2 * j + 1]);
      outline.edge(x, y, xe, ye);
      x = xe, y = ye;
    }
    outline.edge(x, y, x0, y0);
  }
  std::sort(crossings.begin(), crossings.end());
  return from_crossings(crossings, height, width);
}

Rle from_polygons(const std::vector<std::vector<double>>& parts, std::int64_t height, std::int64_t width) {
  if (parts.empty()) return {height, width, {static_cast<std::uint32_t>(height * width)}};
  if (parts.size() == 1) return from_polygon(parts[0], height, width);
  std::vector<Rle> masks;
  for (const auto& part : parts) masks.push_back(from_polygon(part, height, width));
  return merge(masks);
}

}  // namespace divergen::mask
