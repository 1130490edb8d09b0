// The plain ways: each does what its rule says, step by step. The fast ones must give the same (tests/unit/mask).

#include "mask/plain.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "mask/builder.hpp"
#include "mask/text.hpp"

namespace divergen::mask::plain {
namespace {

/// Calls run(first, last, inside_a, inside_b) for stretches over which both masks are constant.
template <class Run>
void walk_both(const Rle& a, const Rle& b, const Run& run) {
  std::size_t i = 0, j = 0;
  std::uint64_t left_a = a.counts.empty() ? 0 : a.counts[0], left_b = b.counts.empty() ? 0 : b.counts[0];
  while (i < a.counts.size() && j < b.counts.size()) {
    const std::uint64_t step = std::min(left_a, left_b);
    if (step > 0) run(step, (i & 1) != 0, (j & 1) != 0);
    left_a -= step;
    left_b -= step;
    if (left_a == 0 && ++i < a.counts.size()) left_a = a.counts[i];
    if (left_b == 0 && ++j < b.counts.size()) left_b = b.counts[j];
  }
}

struct Boundary {
  std::int64_t u, v;
};

/// All points of the polygon's edges on a grid five times finer than the pixels.
std::vector<Boundary> trace(std::span<const double> xy) {
  constexpr double kScale = 5;
  const std::size_t n = xy.size() / 2;
  std::vector<std::int64_t> x(n + 1), y(n + 1);
  for (std::size_t j = 0; j < n; ++j) {
    x[j] = static_cast<std::int64_t>(kScale * xy[2 * j] + 0.5);
    y[j] = static_cast<std::int64_t>(kScale * xy[2 * j + 1] + 0.5);
  }
  x[n] = x[0];
  y[n] = y[0];
  std::vector<Boundary> points;
  for (std::size_t j = 0; j < n; ++j) {
    std::int64_t xs = x[j], xe = x[j + 1], ys = y[j], ye = y[j + 1];
    const std::int64_t dx = std::abs(xe - xs), dy = std::abs(ys - ye);
    const bool flat = dx >= dy;
    const bool flip = (flat && xs > xe) || (!flat && ys > ye);
    if (flip) {
      std::swap(xs, xe);
      std::swap(ys, ye);
    }
    const double slope = flat ? static_cast<double>(ye - ys) / static_cast<double>(dx)
                              : static_cast<double>(xe - xs) / static_cast<double>(dy);
    const std::int64_t length = flat ? dx : dy;
    for (std::int64_t d = 0; d <= length; ++d) {
      const std::int64_t t = flip ? length - d : d;
      // A single point has slope 0/0; its product with t = 0 must not reach the conversion.
      const double across = length == 0 ? 0 : slope * static_cast<double>(t);
      if (flat) points.push_back({t + xs, static_cast<std::int64_t>(static_cast<double>(ys) + across + 0.5)});
      else points.push_back({static_cast<std::int64_t>(static_cast<double>(xs) + across + 0.5), t + ys});
    }
  }
  return points;
}

}  // namespace

Rle encode(std::span<const std::uint8_t> bitmap, std::int64_t height, std::int64_t width) {
  DIVERGEN_CHECK(static_cast<std::int64_t>(bitmap.size()) == height * width);
  Builder builder(height, width);
  for (std::int64_t x = 0; x < width; ++x)
    for (std::int64_t y = 0; y < height;) {
      const bool inside = bitmap[static_cast<std::size_t>(y * width + x)] != 0;
      const std::int64_t first = y;
      while (y < height && (bitmap[static_cast<std::size_t>(y * width + x)] != 0) == inside) ++y;
      builder.add(static_cast<std::uint64_t>(y - first), inside);
    }
  return builder.finish();
}

std::vector<std::uint8_t> decode(const Rle& rle) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(rle.height * rle.width));
  std::int64_t at = 0;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    const std::int64_t end = at + rle.counts[i];
    if ((i & 1) != 0)
      for (std::int64_t p = at; p < end; ++p)
        out[static_cast<std::size_t>(p % rle.height * rle.width + p / rle.height)] = 1;
    at = end;
  }
  return out;
}

std::uint64_t area(const Rle& rle) {
  std::uint64_t sum = 0;
  for (std::size_t i = 1; i < rle.counts.size(); i += 2) sum += rle.counts[i];
  return sum;
}

std::array<double, 4> bounding_box(const Rle& rle) {
  const std::int64_t h = rle.height;
  std::int64_t x0 = rle.width, x1 = -1, y0 = h, y1 = -1, at = 0;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    const std::int64_t first = at, last = at + rle.counts[i] - 1;
    at += rle.counts[i];
    if ((i & 1) == 0 || rle.counts[i] == 0) continue;
    x0 = std::min(x0, first / h);
    x1 = std::max(x1, last / h);
    const bool spans = first / h != last / h;
    y0 = std::min(y0, spans ? 0 : first % h);
    y1 = std::max(y1, spans ? h - 1 : last % h);
  }
  if (x1 < 0) return {0, 0, 0, 0};
  return {static_cast<double>(x0), static_cast<double>(y0), static_cast<double>(x1 - x0 + 1),
          static_cast<double>(y1 - y0 + 1)};
}

Rle merge(std::span<const Rle> masks, bool intersect) {
  DIVERGEN_CHECK(!masks.empty());
  Rle out = masks[0];
  for (std::size_t i = 1; i < masks.size(); ++i) {
    DIVERGEN_CHECK(masks[i].height == out.height && masks[i].width == out.width);
    Builder builder(out.height, out.width);
    walk_both(out, masks[i],
              [&](std::uint64_t length, bool a, bool b) { builder.add(length, intersect ? a && b : a || b); });
    out = builder.finish();
  }
  return out;
}

double iou(const Rle& a, const Rle& b) {
  if (a.height != b.height || a.width != b.width) return -1;
  std::uint64_t both = 0, either = 0;
  walk_both(a, b, [&](std::uint64_t length, bool in_a, bool in_b) {
    if (in_a && in_b) both += length;
    if (in_a || in_b) either += length;
  });
  if (both == 0) either = 1;
  return static_cast<double>(both) / static_cast<double>(either);
}

Rle from_polygon(std::span<const double> xy, std::int64_t height, std::int64_t width) {
  constexpr double kScale = 5;
  constexpr double kLimit = 1e7;  // px; beyond it the boundary alone would not fit in memory
  for (const double value : xy)
    if (!(std::abs(value) < kLimit)) refuse(cat("a polygon has the coordinate ", value));
  const auto points = trace(xy);
  std::vector<std::int64_t> crossings;
  for (std::size_t j = 1; j < points.size(); ++j) {
    const Boundary &p = points[j], &q = points[j - 1];
    if (p.u == q.u) continue;
    const double xd = (static_cast<double>(p.u < q.u ? p.u : p.u - 1) + 0.5) / kScale - 0.5;
    if (std::floor(xd) != xd || xd < 0 || xd > static_cast<double>(width - 1)) continue;
    double yd = (static_cast<double>(std::min(p.v, q.v)) + 0.5) / kScale - 0.5;
    yd = std::ceil(std::clamp(yd, 0.0, static_cast<double>(height)));
    crossings.push_back(static_cast<std::int64_t>(xd) * height + static_cast<std::int64_t>(yd));
  }
  crossings.push_back(height * width);
  std::sort(crossings.begin(), crossings.end());
  // Between crossings the mask is outside and inside in turn; two crossings at one place cancel.
  Builder builder(height, width);
  std::int64_t at = 0;
  bool inside = false;
  for (const std::int64_t crossing : crossings) {
    builder.add(static_cast<std::uint64_t>(crossing - at), inside);
    at = crossing;
    inside = !inside;
  }
  return builder.finish();
}

Rle from_polygons(const std::vector<std::vector<double>>& parts, std::int64_t height, std::int64_t width) {
  std::vector<Rle> masks;
  for (const auto& part : parts) masks.push_back(from_polygon(part, height, width));
  if (masks.empty()) return {height, width, {static_cast<std::uint32_t>(height * width)}};
  return plain::merge(masks);
}

std::string to_text(const Rle& rle) {
  std::string out;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    std::int64_t x = rle.counts[i];
    if (i > 2) x -= static_cast<std::int64_t>(rle.counts[i - 2]);
    bool more = true;
    while (more) {
      char c = static_cast<char>(x & 0x1f);
      x >>= 5;
      more = (c & 0x10) != 0 ? x != -1 : x != 0;
      if (more) c |= 0x20;
      out += static_cast<char>(c + 48);
    }
  }
  return out;
}

Rle from_text(std::string_view text, std::int64_t height, std::int64_t width) {
  std::vector<std::uint32_t> counts;
  for (const char *p = text.data(), *end = p + text.size(); p < end;) {
    std::int64_t x = slow_number(p, end);
    if (counts.size() > 2) x += counts[counts.size() - 2];
    if (x < 0 || x > INT64_C(0xffffffff)) refuse("it has a negative or huge run");
    counts.push_back(static_cast<std::uint32_t>(x));
  }
  return from_counts(std::move(counts), height, width);
}

}  // namespace divergen::mask::plain
