#pragma once
// A mask as the stretches of its inside: what overlaps are computed from. Made once a mask, at the cost of its runs.

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "mask/rle.hpp"

namespace divergen::mask {

struct Spans {
  std::int64_t height = 0, width = 0;
  /// begin, end of each stretch in column order (pixel x·height + y), ascending, none empty, none touching the next.
  std::vector<std::uint32_t> edges;
  std::uint64_t area = 0;
  std::int32_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;  // tight box, x1 and y1 exclusive; all 0 for an empty mask

  std::array<double, 4> box() const;  // x, y, width, height
};

/// Replaces `out`, keeping its memory.
void to_spans(const Rle& rle, Spans& out);
/// From COCO's compressed text without the steps between; throws Error(Data) as from_text does.
void to_spans(std::string_view text, std::int64_t height, std::int64_t width, Spans& out);

Rle to_rle(const Spans& spans);

/// Pixels inside both. The sizes must agree.
std::uint64_t intersection(const Spans& a, const Spans& b);
/// As pycocotools' iou: -1 if the sizes differ and the boxes touch, 0 if the boxes do not; with `crowd` the union is
/// the area of `a`.
double iou(const Spans& a, const Spans& b, bool crowd = false);
/// All pairs, row by row: out[i * b.size() + j]. `crowd` is empty or has a flag for each of `b`.
std::vector<double> iou_matrix(std::span<const Rle> a, std::span<const Rle> b,
                               std::span<const std::uint8_t> crowd = {});

}  // namespace divergen::mask
