#include "image/pil_resize.hpp"

#include <algorithm>
#include <cmath>

namespace divergen::image {
namespace {

constexpr int kPrecisionBits = 22;  // 32 bits less 8 for the sample and 2 for sums beyond 1

double bilinear(double x) {
  x = std::abs(x);
  return x < 1 ? 1 - x : 0;
}

double bicubic(double x) {
  constexpr double a = -0.5;  // Pillow's choice; OpenCV's is -0.75
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/// For each output sample of a range: which input samples it takes, and with which fixed-point weights.
struct Weights {
  int size = 0;  // weights of one output sample
  std::vector<int> first, count;
  std::vector<int> values;

  const int* of(int i) const { return &values[static_cast<std::size_t>(i) * static_cast<std::size_t>(size)]; }
  int outputs() const { return static_cast<int>(first.size()); }
  // Input samples that the range takes.
  int begin() const { return *std::min_element(first.begin(), first.end()); }
  int end() const {
    int last = 0;
    for (std::size_t i = 0; i < first.size(); ++i) last = std::max(last, first[i] + count[i]);
    return last;
  }
};

/// Output samples from .. from + outputs - 1 of a resize from `in` to `out` samples.
Weights make_weights(int in, int out, int from, int outputs, Filter filter) {
  const double scale = static_cast<double>(in) / out;
  const double stretch = std::max(scale, 1.0);
  const double support = (filter == Filter::Bilinear ? 1.0 : 2.0) * stretch;
  Weights w;
  w.size = static_cast<int>(std::ceil(support)) * 2 + 1;
  w.values.assign(static_cast<std::size_t>(w.size) * static_cast<std::size_t>(outputs), 0);
  std::vector<double> k(static_cast<std::size_t>(w.size));
  for (int i = 0; i < outputs; ++i) {
    const double centre = (from + i + 0.5) * scale;
    const int low = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int high = std::min(static_cast<int>(centre + support + 0.5), in);
    double sum = 0;
    for (int x = low; x < high; ++x) {
      const double at = (x - centre + 0.5) * (1.0 / stretch);
      const double value = filter == Filter::Bilinear ? bilinear(at) : bicubic(at);
      k[static_cast<std::size_t>(x - low)] = value;
      sum += value;
    }
    for (int x = 0; x < high - low; ++x) {
      double value = k[static_cast<std::size_t>(x)];
      if (sum != 0) value /= sum;
      const double fixed = value * (1 << kPrecisionBits);
      w.values[static_cast<std::size_t>(i) * static_cast<std::size_t>(w.size) + static_cast<std::size_t>(x)] =
          static_cast<int>(value < 0 ? fixed - 0.5 : fixed + 0.5);
    }
    w.first.push_back(low);
    w.count.push_back(high - low);
  }
  return w;
}

std::uint8_t clip8(int value) { return static_cast<std::uint8_t>(std::clamp(value >> kPrecisionBits, 0, 255)); }

/// One row; the number of channels as a constant, so that the innermost loop is unrolled.
template <int kChannels>
void resize_row(const std::uint8_t* source, std::uint8_t* target, const Weights& w) {
  for (int x = 0; x < w.outputs(); ++x, target += kChannels) {
    const int* k = w.of(x);
    const int count = w.count[static_cast<std::size_t>(x)];
    const std::uint8_t* from = source + static_cast<std::ptrdiff_t>(w.first[static_cast<std::size_t>(x)]) * kChannels;
    int sums[kChannels];
    for (int& sum : sums) sum = 1 << (kPrecisionBits - 1);
    for (int i = 0; i < count; ++i, from += kChannels)
      for (int c = 0; c < kChannels; ++c) sums[c] += from[c] * k[i];
    for (int c = 0; c < kChannels; ++c) target[c] = clip8(sums[c]);
  }
}

Image resize_rows(const Image& image, const Weights& w) {
  using Row = void (*)(const std::uint8_t*, std::uint8_t*, const Weights&);
  static constexpr Row kRows[] = {resize_row<1>, resize_row<2>, resize_row<3>, resize_row<4>};
  DIVERGEN_CHECK(image.channels >= 1 && image.channels <= 4, image.channels);
  Image out(image.height, w.outputs(), image.channels);
  for (int y = 0; y < image.height; ++y) kRows[image.channels - 1](image.at(y, 0), out.at(y, 0), w);
  return out;
}

Image resize_columns(const Image& image, const Weights& w) {
  Image out(w.outputs(), image.width, image.channels);
  const int row = image.width * image.channels;
  std::vector<int> sums(static_cast<std::size_t>(row));
  for (int y = 0; y < out.height; ++y) {
    const int* k = w.of(y);
    std::fill(sums.begin(), sums.end(), 1 << (kPrecisionBits - 1));
    for (int i = 0; i < w.count[static_cast<std::size_t>(y)]; ++i) {
      const std::uint8_t* source = image.at(w.first[static_cast<std::size_t>(y)] + i, 0);
      for (int x = 0; x < row; ++x) sums[static_cast<std::size_t>(x)] += source[x] * k[i];
    }
    std::uint8_t* target = out.at(y, 0);
    for (int x = 0; x < row; ++x) target[x] = clip8(sums[static_cast<std::size_t>(x)]);
  }
  return out;
}

/// Pillow 13 shrinks the height first where that saves work; each pass rounds, so the order shows in the last bit. The
/// rule was fitted to the installed library over 200 random sizes, not read in its source.
bool vertical_first(const Image& image, int height, int width) {
  if (height >= image.height) return false;
  if (width >= image.width) return true;
  const auto vertical = static_cast<std::int64_t>(height) * image.width;
  const auto horizontal = static_cast<std::int64_t>(image.height) * width;
  return 2 * vertical < horizontal || (image.height >= 3 * image.width && 2 * vertical < 3 * horizontal);
}

Image nearest(const Image& image, int height, int width, int y, int x, int window_height, int window_width) {
  Image out(window_height, window_width, image.channels);
  const double step_y = static_cast<double>(image.height) / height, step_x = static_cast<double>(image.width) / width;
  for (int row = 0; row < window_height; ++row) {
    const int from_y = std::min(static_cast<int>((y + row + 0.5) * step_y), image.height - 1);
    for (int column = 0; column < window_width; ++column) {
      const int from_x = std::min(static_cast<int>((x + column + 0.5) * step_x), image.width - 1);
      std::copy_n(image.at(from_y, from_x), image.channels, out.at(row, column));
    }
  }
  return out;
}

}  // namespace

Image pil_resize(const Image& image, int height, int width, Filter filter) {
  return pil_resize_window(image, height, width, filter, 0, 0, height, width);
}

Image pil_resize_window(const Image& image, int height, int width, Filter filter, int y, int x, int window_height,
                        int window_width) {
  DIVERGEN_CHECK(height > 0 && width > 0 && !image.empty(), height, "x", width);
  DIVERGEN_CHECK(y >= 0 && x >= 0 && window_height > 0 && window_width > 0 && y + window_height <= height &&
                     x + window_width <= width,
                 window_height, "x", window_width, " at ", y, ", ", x, " of ", height, "x", width);
  if (image.height == height && image.width == width) return crop(image, x, y, window_width, window_height);
  if (filter == Filter::Nearest) return nearest(image, height, width, y, x, window_height, window_width);
  // Each pass works on just what the window takes; a pass that changes nothing is a cut, as Pillow skips it.
  const bool scales_rows = image.width != width, scales_columns = image.height != height;
  Weights across, down;
  if (scales_rows) across = make_weights(image.width, width, x, window_width, filter);
  if (scales_columns) down = make_weights(image.height, height, y, window_height, filter);
  const int left = scales_rows ? across.begin() : x, right = scales_rows ? across.end() : x + window_width;
  const int top = scales_columns ? down.begin() : y, lower = scales_columns ? down.end() : y + window_height;
  for (int& first : across.first) first -= left;
  for (int& first : down.first) first -= top;
  Image out = crop(image, left, top, right - left, lower - top);
  const bool columns_first = vertical_first(image, height, width);
  if (scales_columns && columns_first) out = resize_columns(out, down);
  if (scales_rows) out = resize_rows(out, across);
  if (scales_columns && !columns_first) out = resize_columns(out, down);
  return out;
}

}  // namespace divergen::image
