#pragma once
// Masks as run lengths in column order, COCO's format, bit-equal to pycocotools (reference/lvis-evaluation.md §1, §5).

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace divergen::mask {

/// Runs of zeros and ones in turn, zeros first, down the columns from the left; they sum to height × width.
struct Rle {
  std::int64_t height = 0, width = 0;
  std::vector<std::uint32_t> counts;
  bool operator==(const Rle&) const = default;
};

/// Row-major bytes, nonzero is inside.
Rle encode(std::span<const std::uint8_t> bitmap, std::int64_t height, std::int64_t width);
/// Row-major 0/1 bytes.
std::vector<std::uint8_t> decode(const Rle& rle);
/// The same into memory of height × width bytes, which is overwritten.
void decode_into(const Rle& rle, std::span<std::uint8_t> out);
/// Column-major, the order of pycocotools' arrays: byte x·height + y. Overwrites `out` / reads height × width bytes.
void decode_columns(const Rle& rle, std::span<std::uint8_t> out);
Rle encode_columns(std::span<const std::uint8_t> bitmap, std::int64_t height, std::int64_t width);

std::uint64_t area(const Rle& rle);
/// x, y, width, height in pixels; zeros for an empty mask.
std::array<double, 4> bounding_box(const Rle& rle);
/// Union (or intersection) of masks of one size.
Rle merge(std::span<const Rle> masks, bool intersect = false);
/// Intersection over union; -1 if the sizes differ, 0/0 counts as 0.
double iou(const Rle& a, const Rle& b);

/// One polygon x0, y0, x1, y1, … in pixels -> mask, by COCO's rule.
Rle from_polygon(std::span<const double> xy, std::int64_t height, std::int64_t width);
/// Union of the parts of one annotation.
Rle from_polygons(const std::vector<std::vector<double>>& parts, std::int64_t height, std::int64_t width);

/// COCO's compressed text.
std::string to_text(const Rle& rle);
/// Throws Error(Data) when the text is malformed or its runs do not sum to height × width.
Rle from_text(std::string_view text, std::int64_t height, std::int64_t width);
/// Checks runs from a file the same way.
Rle from_counts(std::vector<std::uint32_t> counts, std::int64_t height, std::int64_t width);

}  // namespace divergen::mask
