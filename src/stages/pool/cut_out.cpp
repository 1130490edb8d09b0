#include "stages/pool/cut_out.hpp"

#include "base/error.hpp"
#include "image/geometry.hpp"

namespace divergen::stages {
namespace {

std::int64_t count_above(const image::Image& grey, int threshold) {
  std::int64_t count = 0;
  for (const std::uint8_t value : grey.pixels) count += value > threshold;
  return count;
}

}  // namespace

CutOut cut_out(const image::Image& rgb, const image::Image& mask, int threshold) {
  DIVERGEN_CHECK(rgb.channels == 3 && mask.channels == 1 && rgb.height == mask.height && rgb.width == mask.width,
                 rgb.height, "x", rgb.width, " picture, ", mask.height, "x", mask.width, " mask");
  CutOut out;
  const auto part = image::largest_component(mask, threshold);
  if (!part) {
    out.problem = CutProblem::Empty;
    return out;
  }
  if (part->width < 2 || part->height < 2) {  // the reference's y_max <= y_min or x_max <= x_min
    out.problem = CutProblem::Thin;
    return out;
  }
  out.x = part->x;
  out.y = part->y;
  out.rgba = image::Image(part->height, part->width, 4);
  for (int y = 0; y < part->height; ++y)
    for (int x = 0; x < part->width; ++x) {
      const int from_y = part->y + y, from_x = part->x + x;
      const std::uint8_t* colour = rgb.at(from_y, from_x);
      const std::uint8_t alpha = *part->mask.at(from_y, from_x) != 0 ? *mask.at(from_y, from_x) : std::uint8_t{0};
      std::uint8_t* to = out.rgba.at(y, x);
      to[0] = colour[0];
      to[1] = colour[1];
      to[2] = colour[2];
      to[3] = alpha;
      out.area += alpha > threshold;
    }
  out.touches_border =
      part->x == 0 || part->y == 0 || part->x + part->width == mask.width || part->y + part->height == mask.height;
  out.parts_dropped = count_above(mask, threshold) > out.area;
  return out;
}

}  // namespace divergen::stages
