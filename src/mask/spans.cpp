#include "mask/spans.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <type_traits>

#include "mask/text.hpp"

namespace divergen::mask {
namespace {

/// Collects stretches in ascending order, joining those that touch, with the box of what was added.
class Collector {
 public:
  /// At most `most` stretches will come.
  Collector(Spans& out, std::size_t most) : out_(out), height_(static_cast<std::uint32_t>(out.height)), y0_(height_) {
    if (out.edges.size() < 2 * most) out.edges.resize(2 * most);
    next_ = out.edges.data();
  }

  void add(std::uint32_t begin, std::uint32_t end) {
    area_ += end - begin;
    if (begin == last_) {
      next_[-1] = end;
    } else {
      *next_++ = begin;
      *next_++ = end;
    }
    last_ = end;
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
    out_.area = area_;
    out_.edges.resize(static_cast<std::size_t>(next_ - out_.edges.data()));
    out_.x0 = out_.x1 = out_.y0 = out_.y1 = 0;
    if (out_.edges.empty()) return;
    out_.x0 = static_cast<std::int32_t>(out_.edges.front() / height_);
    out_.x1 = static_cast<std::int32_t>((out_.edges.back() - 1) / height_) + 1;
    out_.y0 = static_cast<std::int32_t>(y0_);
    out_.y1 = static_cast<std::int32_t>(y1_);
  }

 private:
  Spans& out_;
  std::uint32_t* next_ = nullptr;
  std::uint64_t area_ = 0;
  std::uint32_t height_, column_ = 0, y0_ = 0, y1_ = 0;
  std::uint32_t last_ = 0xFFFFFFFF;  // where the last stretch ended; no stretch begins there
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

bool touch(const Spans& a, const Spans& b) {
  return std::min(a.x1, b.x1) > std::max(a.x0, b.x0) && std::min(a.y1, b.y1) > std::max(a.y0, b.y0);
}

double ratio(std::uint64_t both, const Spans& a, const Spans& b, bool crowd) {
  const std::uint64_t either = crowd ? a.area : both == 0 ? 1 : a.area + b.area - both;
  return static_cast<double>(both) / static_cast<double>(either);
}

/// The pixels of a mask's box as bits, 64 of a column in a word, word k of a column holding rows 64k .. 64k+63 of the
/// picture: overlaps of many pairs are counted without looking at runs again.
class Bits {
 public:
  void fill(const Spans& from) {
    x0_ = from.x0, x1_ = from.x1;
    first_word_ = from.y0 / 64, end_word_ = (from.y1 + 63) / 64;
    stride_ = static_cast<std::size_t>(end_word_ - first_word_);
    words_.assign(static_cast<std::size_t>(x1_ - x0_) * stride_, 0);
    const auto height = static_cast<std::uint32_t>(from.height);
    std::uint32_t top = static_cast<std::uint32_t>(x0_) * height;  // position of the current column
    std::uint64_t* column = words_.data();
    for (std::size_t i = 0; i < from.edges.size(); i += 2)
      for (std::uint32_t at = from.edges[i], end = from.edges[i + 1]; at < end;) {
        while (at - top >= height) top += height, column += stride_;
        const std::uint32_t stop = std::min(end, top + height);
        set(column, at - top, stop - top);
        at = stop;
      }
  }

  std::uint64_t intersection(const Bits& other) const {
    const std::int32_t left = std::max(x0_, other.x0_), right = std::min(x1_, other.x1_);
    const std::int32_t first = std::max(first_word_, other.first_word_), end = std::min(end_word_, other.end_word_);
    std::uint64_t sum = 0;
    const std::uint64_t* p = &words_[static_cast<std::size_t>(left - x0_) * stride_] + (first - first_word_);
    const std::uint64_t* q =
        &other.words_[static_cast<std::size_t>(left - other.x0_) * other.stride_] + (first - other.first_word_);
    // Most objects are less than 128 px high: loops of one and two steps are written out.
    const auto count = [&](auto words) {
      for (std::int32_t x = left; x < right; ++x, p += stride_, q += other.stride_)
        for (std::int32_t k = 0; k < words; ++k) sum += static_cast<std::uint64_t>(std::popcount(p[k] & q[k]));
    };
    if (end - first == 1) count(std::integral_constant<std::int32_t, 1>());
    else if (end - first == 2) count(std::integral_constant<std::int32_t, 2>());
    else count(end - first);
    return sum;
  }

 private:
  void set(std::uint64_t* column, std::uint32_t begin, std::uint32_t end) const {
    constexpr std::uint64_t kAll = ~std::uint64_t{0};
    std::uint64_t* word = column + (begin / 64 - static_cast<std::uint32_t>(first_word_));
    std::uint64_t* last = column + ((end - 1) / 64 - static_cast<std::uint32_t>(first_word_));
    const std::uint64_t head = kAll << (begin % 64), tail = kAll >> (63 - (end - 1) % 64);
    if (word == last) {
      *word |= head & tail;
      return;
    }
    *word++ |= head;
    while (word != last) *word++ = kAll;
    *last |= tail;
  }

  std::int32_t x0_ = 0, x1_ = 0, first_word_ = 0, end_word_ = 0;
  std::size_t stride_ = 0;
  std::vector<std::uint64_t> words_;
};

}  // namespace

std::array<double, 4> Spans::box() const {
  return {static_cast<double>(x0), static_cast<double>(y0), static_cast<double>(x1 - x0), static_cast<double>(y1 - y0)};
}

void to_spans(const Rle& rle, Spans& out) {
  out.height = rle.height;
  out.width = rle.width;
  Collector collector(out, rle.counts.size() / 2);
  std::uint32_t at = 0;
  for (std::size_t i = 1; i < rle.counts.size(); i += 2) {
    const std::uint32_t begin = at + rle.counts[i - 1];
    at = begin + rle.counts[i];
    if (at > begin) collector.add(begin, at);
  }
  collector.finish();
}

void to_spans(std::string_view text, std::int64_t height, std::int64_t width, Spans& out) {
  check_size(height, width);
  out.height = height;
  out.width = width;
  Collector collector(out, text.size() / 2);
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
  if (!touch(a, b)) return 0;
  if (a.height != b.height || a.width != b.width) return -1;
  return ratio(intersection(a, b), a, b, crowd);
}

std::vector<double> iou_matrix(std::span<const Rle> a, std::span<const Rle> b, std::span<const std::uint8_t> crowd) {
  thread_local std::vector<Spans> columns;  // keep their memory from call to call
  thread_local std::vector<Bits> column_bits;
  if (columns.size() < b.size()) columns.resize(b.size()), column_bits.resize(b.size());
  for (std::size_t j = 0; j < b.size(); ++j) {
    to_spans(b[j], columns[j]);
    column_bits[j].fill(columns[j]);
  }
  std::vector<double> out(a.size() * b.size());
  thread_local Spans row;
  thread_local Bits row_bits;
  thread_local std::vector<std::array<std::int32_t, 4>> boxes;
  thread_local std::vector<std::uint32_t> near;
  boxes.resize(b.size());
  near.resize(b.size());
  for (std::size_t j = 0; j < b.size(); ++j) boxes[j] = {columns[j].x0, columns[j].x1, columns[j].y0, columns[j].y1};
  for (std::size_t i = 0; i < a.size(); ++i) {
    to_spans(a[i], row);
    // Which boxes touch, without branches: which do cannot be foretold.
    std::size_t count = 0;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const auto& [x0, x1, y0, y1] = boxes[j];
      near[count] = static_cast<std::uint32_t>(j);
      count += static_cast<unsigned>(std::min(x1, row.x1) > std::max(x0, row.x0)) &
               static_cast<unsigned>(std::min(y1, row.y1) > std::max(y0, row.y0));
    }
    if (count > 0) row_bits.fill(row);
    for (std::size_t n = 0; n < count; ++n) {
      const std::size_t j = near[n];
      out[i * b.size() + j] =
          row.height != columns[j].height || row.width != columns[j].width
              ? -1
              : ratio(row_bits.intersection(column_bits[j]), row, columns[j], !crowd.empty() && crowd[j] != 0);
    }
  }
  return out;
}

}  // namespace divergen::mask
