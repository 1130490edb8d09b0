// Between run lengths and bitmaps. Rows are what pictures have, columns what run lengths have.
//
// Encoding: 32 pixels at a time are compared with those above (or, in columns, before) them; where something changes is
// rare, and only that costs more. Rows give the changes row by row; a counting sort brings them into column order.
// Decoding: in columns a stretch is one memset. For rows only the mask's box is written in columns and turned, in tiles
// that fit the registers.

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "base/error.hpp"
#include "mask/builder.hpp"
#include "mask/spans.hpp"

namespace divergen::mask {
namespace {

/// Bit i: whether a[i] and b[i] differ in being zero.
#if defined(__AVX2__)
constexpr std::size_t kStep = 32;
std::uint32_t changes(const std::uint8_t* a, const std::uint8_t* b) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i x = _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)), zero);
  const __m256i y = _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)), zero);
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_xor_si256(x, y)));
}
#else
constexpr std::size_t kStep = 8;
std::uint32_t changes(const std::uint8_t* a, const std::uint8_t* b) {
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < kStep; ++i) out |= static_cast<std::uint32_t>((a[i] != 0) != (b[i] != 0)) << i;
  return out;
}
#endif

/// Calls each(i) for the i < n, ascending, at which a and b differ.
template <class Each>
void for_each_change(const std::uint8_t* a, const std::uint8_t* b, std::size_t n, const Each& each) {
  std::size_t i = 0;
  for (; i + kStep <= n; i += kStep)
    for (std::uint32_t bits = changes(a + i, b + i); bits != 0; bits &= bits - 1)
      each(i + static_cast<std::size_t>(std::countr_zero(bits)));
  for (; i < n; ++i)
    if ((a[i] != 0) != (b[i] != 0)) each(i);
}

/// Turns 8 columns of 8 bytes into 8 rows.
void turn_tile(const std::uint8_t* columns, std::size_t column_stride, std::uint8_t* rows, std::size_t row_stride) {
  std::uint64_t v[8];
  for (std::size_t i = 0; i < 8; ++i) std::memcpy(&v[i], columns + i * column_stride, 8);
  // Values are 0 and 1: bit 8·y of column x goes to bit 8·x of row y.
  for (std::size_t y = 0; y < 8; ++y) {
    std::uint64_t row = 0;
    for (std::size_t x = 0; x < 8; ++x) row |= (v[x] >> (8 * y) & 0xFF) << (8 * x);
    std::memcpy(rows + y * row_stride, &row, 8);
  }
}

}  // namespace

Rle encode(std::span<const std::uint8_t> bitmap, std::int64_t height, std::int64_t width) {
  DIVERGEN_CHECK(static_cast<std::int64_t>(bitmap.size()) == height * width);
  if (bitmap.empty()) return {height, width, {0}};
  const auto h = static_cast<std::size_t>(height), w = static_cast<std::size_t>(width);
  struct Change {
    std::uint32_t column, row;
  };
  thread_local std::vector<Change> changes_by_row;
  thread_local std::vector<std::uint32_t> next, crossings;
  changes_by_row.clear();
  next.assign(w + 1, 0);
  const auto note = [&](std::size_t x, std::size_t y) {
    changes_by_row.push_back({static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y)});
    ++next[x + 1];
  };
  const std::uint8_t* top = bitmap.data();
  if (top[0] != 0) note(0, 0);
  // The top of a column follows the bottom of the one before.
  for_each_change(top + 1, top + (h - 1) * w, w - 1, [&](std::size_t x) { note(x + 1, 0); });
  for (std::size_t y = 1; y < h; ++y)
    for_each_change(top + y * w, top + (y - 1) * w, w, [&](std::size_t x) { note(x, y); });
  for (std::size_t x = 0; x < w; ++x) next[x + 1] += next[x];
  crossings.resize(changes_by_row.size());
  for (const Change& change : changes_by_row)
    crossings[next[change.column]++] = static_cast<std::uint32_t>(change.column * h + change.row);
  return from_crossings(crossings, height, width);
}

Rle encode_columns(std::span<const std::uint8_t> bitmap, std::int64_t height, std::int64_t width) {
  DIVERGEN_CHECK(static_cast<std::int64_t>(bitmap.size()) == height * width);
  if (bitmap.empty()) return {height, width, {0}};
  thread_local std::vector<std::uint32_t> crossings;
  crossings.clear();
  if (bitmap[0] != 0) crossings.push_back(0);
  for_each_change(bitmap.data() + 1, bitmap.data(), bitmap.size() - 1,
                  [&](std::size_t i) { crossings.push_back(static_cast<std::uint32_t>(i + 1)); });
  return from_crossings(crossings, height, width);
}

void decode_columns(const Rle& rle, std::span<std::uint8_t> out) {
  DIVERGEN_CHECK(static_cast<std::int64_t>(out.size()) == rle.height * rle.width);
  if (out.empty()) return;  // memset does not take the null pointer of a picture without pixels
  std::memset(out.data(), 0, out.size());
  std::size_t at = 0;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    if ((i & 1) != 0) std::memset(out.data() + at, 1, rle.counts[i]);
    at += rle.counts[i];
  }
}

void decode_into(const Rle& rle, std::span<std::uint8_t> out) {
  DIVERGEN_CHECK(static_cast<std::int64_t>(out.size()) == rle.height * rle.width);
  if (out.empty()) return;
  std::memset(out.data(), 0, out.size());
  thread_local Spans spans;
  thread_local std::vector<std::uint8_t> columns;
  to_spans(rle, spans);
  if (spans.area == 0) return;
  // The box in columns, both sides rounded up to whole tiles; what lies beyond the picture is not copied.
  const auto h = static_cast<std::size_t>(rle.height), w = static_cast<std::size_t>(rle.width);
  const auto x0 = static_cast<std::size_t>(spans.x0), y0 = static_cast<std::size_t>(spans.y0);
  const auto box_w = static_cast<std::size_t>(spans.x1) - x0, box_h = static_cast<std::size_t>(spans.y1) - y0;
  const std::size_t stride = (box_h + 7) / 8 * 8;
  columns.assign((box_w + 7) / 8 * 8 * stride, 0);
  std::size_t x = x0;
  for (std::size_t i = 0; i < spans.edges.size(); i += 2)
    for (std::size_t at = spans.edges[i], end = spans.edges[i + 1]; at < end;) {
      while (at >= (x + 1) * h) ++x;
      const std::size_t stop = std::min(end, (x + 1) * h);
      std::memset(&columns[(x - x0) * stride + (at - x * h - y0)], 1, stop - at);
      at = stop;
    }
  std::uint8_t tile[64];
  for (std::size_t tx = 0; tx < box_w; tx += 8)
    for (std::size_t ty = 0; ty < box_h; ty += 8) {
      const std::uint8_t* from = &columns[tx * stride + ty];
      std::uint8_t* to = out.data() + (y0 + ty) * w + x0 + tx;
      if (tx + 8 <= box_w && ty + 8 <= box_h) {
        turn_tile(from, stride, to, w);
      } else {
        turn_tile(from, stride, tile, 8);
        for (std::size_t y = 0; y < std::min<std::size_t>(8, box_h - ty); ++y)
          std::memcpy(to + y * w, tile + 8 * y, std::min<std::size_t>(8, box_w - tx));
      }
    }
}

}  // namespace divergen::mask
