#pragma once
// Slow twins of the functions of rle.hpp, for tests and for processors without AVX2. Same arguments, same results.

#include "mask/rle.hpp"

namespace divergen::mask::plain {

Rle encode(std::span<const std::uint8_t> bitmap, std::int64_t height, std::int64_t width);
std::vector<std::uint8_t> decode(const Rle& rle);
std::uint64_t area(const Rle& rle);
std::array<double, 4> bounding_box(const Rle& rle);
Rle merge(std::span<const Rle> masks, bool intersect = false);
double iou(const Rle& a, const Rle& b);
Rle from_polygon(std::span<const double> xy, std::int64_t height, std::int64_t width);
Rle from_polygons(const std::vector<std::vector<double>>& parts, std::int64_t height, std::int64_t width);

std::string to_text(const Rle& rle);
Rle from_text(std::string_view text, std::int64_t height, std::int64_t width);

}  // namespace divergen::mask::plain
