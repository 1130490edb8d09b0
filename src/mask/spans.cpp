#include "mask/spans.hpp"

#include <algorithm>

#include "mask/text.hpp"

namespace divergen::mask {
namespace {

/// Collects stretches in ascending order, joining those that touch, with the box of what was added.
class Collector {
 public:
  explicit Collector(Spans& out) : out_(out), height_(static_cast<std::uint32_t>(out.height)) {
    out_.edges.clear();
    out_.area = 0;
    y0_ = height_;
  }

  void add(std::uint32_t begin, std::uint32_t end) {
    out_.area += end - begin;
    if (!out_.edges.empty() && out_.edges.back() == begin) out_.edges.back() = end;
    else out_.edges.push_back(begin), out_.edges.push_back(end);
    while (begin - column_ >= height_) column_ += height_;  // columns are few more than stretches
    const std::uint32_t top = begin - column_, bottom = top + (end - begin);
    if (bottom > height_) {  // into the next column: from its top and to this one's bottom
      y0_ = 0;
      y1_ = height_;
    } else {
      y0_ = std::min(y0_, top);
      y1_ = std::max(y1_, bottom);
    }
  }

  void finish() {
    out_.x0 = out_.x1 = out_.y0 = out_.y1 = 0;
    if (out_.edges.empty()) return;
    out_.x0 = static_cast<std::int32_t>(out_.edges.front() / height_);
    out_.x1 = static_cast<std::int32_t>((out_.edges.back() - 1) / height_) + 1;
    out_.y0 = static_cast<std::int32_t>(y0_);
    out_.y1 = static_cast<std::int32_t>(y1_);
  }

 private:
  Spans& out_;
  std::uint32_t height_, column_ = 0, y0_ = 0, y1_ = 0;
};

/// First stretch that ends after `position`.
std::size_t first_after(const Spans& of, std::uint32_t position) {
  std::size_t low = 0, high = of.edges.size() / 2;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (of.edges[2 * middle + 1] <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}

}  // namespace

std::array<double, 4> Spans::box() const {
  return {static_cast<double>(x0), static_cast<double>(y0), static_cast<double>(x1 - x0), static_cast<double>(y1 - y0)};
}

void to_spans(const Rle& rle, Spans& out) {
  out.height = rle.height;
  out.width = rle.width;
  Collector collector(out);
  std::uint32_t at = 0;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    const std::uint32_t end = at + rle.counts[i];
    if ((i & 1) != 0 && end > at) collector.add(at, end);
    at = end;
  }
  collector.finish();
}

void to_spans(std::string_view text, std::int64_t height, std::int64_t width, Spans& out) {
  check_size(height, width);
  out.height = height;
  out.width = width;
  Collector collector(out);
  std::uint64_t at = 0;
  bool inside = false;
  for_each_run(text, [&](std::uint32_t run) {
    const std::uint64_t end = at + run;
    if (end > static_cast<std::uint64_t>(height * width)) refuse_sum(end, height, width);
    if (inside && run > 0) collector.add(static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(end));
    at = end;
    inside = !inside;
  });
  if (at != static_cast<std::uint64_t>(height * width)) refuse_sum(at, height, width);
  collector.finish();
}

Rle to_rle(const Spans& spans) {
  Rle out{spans.height, spans.width, {}};
  std::uint32_t at = 0;
  for (const std::uint32_t edge : spans.edges) {
    out.counts.push_back(edge - at);
    at = edge;
  }
  const auto all = static_cast<std::uint32_t>(spans.height * spans.width);
  if (at < all || out.counts.empty()) out.counts.push_back(all - at);
  return out;
}

std::uint64_t intersection(const Spans& a, const Spans& b) {
  if (a.edges.empty() || b.edges.empty()) return 0;
  const std::uint32_t *p = a.edges.data() + 2 * first_after(a, b.edges.front()),
                      *q = b.edges.data() + 2 * first_after(b, a.edges.front());
  const std::uint32_t *p_end = a.edges.data() + a.edges.size(), *q_end = b.edges.data() + b.edges.size();
  std::uint64_t sum = 0;
  while (p != p_end && q != q_end) {
    const std::uint32_t a_end = p[1], b_end = q[1], low = std::max(p[0], q[0]), high = std::min(a_end, b_end);
    sum += high > low ? high - low : 0;
    // Whichever ends first is done with; no branch, since which it is cannot be foretold.
    p += a_end <= b_end ? 2 : 0;
    q += b_end <= a_end ? 2 : 0;
  }
  return sum;
}

double iou(const Spans& a, const Spans& b, bool crowd) {
  const bool touch = std::min(a.x1, b.x1) > std::max(a.x0, b.x0) && std::min(a.y1, b.y1) > std::max(a.y0, b.y0);
  if (!touch) return 0;
  if (a.height != b.height || a.width != b.width) return -1;
  const std::uint64_t both = intersection(a, b);
  const std::uint64_t either = crowd ? a.area : both == 0 ? 1 : a.area + b.area - both;
  return static_cast<double>(both) / static_cast<double>(either);
}

std::vector<double> iou_matrix(std::span<const Rle> a, std::span<const Rle> b, std::span<const std::uint8_t> crowd) {
  std::vector<Spans> columns(b.size());
  for (std::size_t j = 0; j < b.size(); ++j) to_spans(b[j], columns[j]);
  std::vector<double> out(a.size() * b.size());
  Spans row;
  for (std::size_t i = 0; i < a.size(); ++i) {
    to_spans(a[i], row);
    for (std::size_t j = 0; j < b.size(); ++j)
      out[i * b.size() + j] = iou(row, columns[j], !crowd.empty() && crowd[j] != 0);
  }
  return out;
}

}  // namespace divergen::mask
