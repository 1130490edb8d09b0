#include "mask/rle.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.hpp"
#include "mask/builder.hpp"
#include "mask/spans.hpp"
#include "mask/text.hpp"

namespace divergen::mask {

void refuse(const std::string& why) {
  fail(ErrorKind::Data,
       {"a run-length mask is malformed", "", why, "write the file again with a tool that follows COCO's format"});
}

void refuse_sum(std::uint64_t sum, std::int64_t height, std::int64_t width) {
  refuse(cat("its runs sum to ", sum, " or more, not to ", height, " x ", width));
}

void check_size(std::int64_t height, std::int64_t width) {
  if (height < 0 || width < 0 || height > 1 << 20 || width > 1 << 20 || height * width > INT64_C(0xffffffff))
    refuse(cat("its size is ", height, " x ", width));
}

Rle from_crossings(std::span<const std::uint32_t> crossings, std::int64_t height, std::int64_t width) {
  Rle out{height, width, {}};
  out.counts.reserve(crossings.size() + 1);
  const auto all = static_cast<std::uint32_t>(height * width);
  std::uint32_t at = 0;
  for (std::size_t i = 0; i < crossings.size();) {
    const std::uint32_t crossing = crossings[i];
    std::size_t same = 1;
    while (i + same < crossings.size() && crossings[i + same] == crossing) ++same;
    i += same;
    if (same % 2 == 0 || crossing == all) continue;  // they cancel, or nothing is left to change
    out.counts.push_back(crossing - at);
    at = crossing;
  }
  out.counts.push_back(all - at);
  return out;
}

std::vector<std::uint8_t> decode(const Rle& rle) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(rle.height * rle.width));
  decode_into(rle, out);
  return out;
}

std::uint64_t area(const Rle& rle) {
  std::uint64_t sum = 0;
  for (std::size_t i = 1; i < rle.counts.size(); i += 2) sum += rle.counts[i];
  return sum;
}

std::array<double, 4> bounding_box(const Rle& rle) {
  thread_local Spans spans;
  to_spans(rle, spans);
  return spans.box();
}

Rle merge(std::span<const Rle> masks, bool intersect) {
  DIVERGEN_CHECK(!masks.empty());
  if (masks.size() == 1) return masks[0];
  // Positions where masks begin (+1) and end (-1), two masks at a time: inside is where the depth is enough.
  thread_local std::vector<std::uint32_t> one, two, crossings;
  const auto edges = [](const Rle& rle, std::vector<std::uint32_t>& out) {
    out.clear();
    std::uint32_t at = 0;
    for (const std::uint32_t count : rle.counts) out.push_back(at += count);
  };
  const std::int64_t height = masks[0].height, width = masks[0].width;
  edges(masks[0], one);
  for (std::size_t m = 1; m < masks.size(); ++m) {
    DIVERGEN_CHECK(masks[m].height == height && masks[m].width == width);
    edges(masks[m], two);
    // The last position of each is the mask's end, where nothing changes.
    const std::size_t n = one.empty() ? 0 : one.size() - 1, k = two.empty() ? 0 : two.size() - 1;
    crossings.clear();
    bool inside = false;
    for (std::size_t i = 0, j = 0; i < n || j < k;) {
      const std::uint32_t at = j >= k || (i < n && one[i] <= two[j]) ? one[i] : two[j];
      while (i < n && one[i] == at) ++i;
      while (j < k && two[j] == at) ++j;
      const bool now = intersect ? (i & j & 1) != 0 : ((i | j) & 1) != 0;
      if (now != inside) crossings.push_back(at), inside = now;
    }
    std::swap(one, crossings);
    one.push_back(static_cast<std::uint32_t>(height * width));
  }
  one.pop_back();
  return from_crossings(one, height, width);
}

double iou(const Rle& a, const Rle& b) {
  if (a.height != b.height || a.width != b.width) return -1;
  thread_local Spans first, second;
  to_spans(a, first);
  to_spans(b, second);
  const std::uint64_t both = intersection(first, second);
  return both == 0 ? 0 : static_cast<double>(both) / static_cast<double>(first.area + second.area - both);
}

std::string to_text(const Rle& rle) {
  constexpr std::size_t kMost = 8;  // characters of a difference of 33 bits, rounded up
  std::string out(kMost * rle.counts.size() + 8, '\0');
  char* p = out.data();
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    std::int64_t x = rle.counts[i];
    if (i > 2) x -= static_cast<std::int64_t>(rle.counts[i - 2]);
    const int length = (64 - std::countl_zero(static_cast<std::uint64_t>(x ^ (x >> 63))) + 5) / 5;  // with its sign bit
    if (length <= 4) {
      const auto v = static_cast<std::uint32_t>(x);
      const std::uint32_t groups = (v & 0x1f) | (v << 3 & 0x1f00) | (v << 6 & 0x1f0000) | (v << 9 & 0x1f000000);
      const auto more = static_cast<std::uint32_t>(0x202020U & ((1U << (8 * (length - 1))) - 1));
      const std::uint32_t text = (groups | more) + 0x30303030;
      std::memcpy(p, &text, 4);
      p += length;
    } else {
      for (int k = 1; k <= length; ++k, x >>= 5) *p++ = static_cast<char>((x & 0x1f) + (k < length ? 0x20 : 0) + 48);
    }
  }
  out.resize(static_cast<std::size_t>(p - out.data()));
  return out;
}

Rle from_counts(std::vector<std::uint32_t> counts, std::int64_t height, std::int64_t width) {
  check_size(height, width);
  std::uint64_t sum = 0;
  for (const std::uint32_t count : counts) sum += count;
  if (sum != static_cast<std::uint64_t>(height * width)) refuse_sum(sum, height, width);
  return {height, width, std::move(counts)};
}

Rle from_text(std::string_view text, std::int64_t height, std::int64_t width) {
  thread_local std::vector<std::uint32_t> runs;
  if (runs.size() < text.size()) runs.resize(text.size());
  std::uint32_t* next = runs.data();
  for_each_run(text, [&](std::uint32_t run) { *next++ = run; });
  return from_counts({runs.data(), next}, height, width);
}

}  // namespace divergen::mask
