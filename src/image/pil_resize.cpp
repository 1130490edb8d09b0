#include "image/pil_resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

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

/// The output samples in reverse order: a mirrored row at no cost.
void reverse(Weights& w) {
  std::reverse(w.first.begin(), w.first.end());
  std::reverse(w.count.begin(), w.count.end());
  std::vector<int> values;
  values.reserve(w.values.size());
  for (int i = w.outputs() - 1; i >= 0; --i) values.insert(values.end(), w.of(i), w.of(i) + w.size);
  w.values = std::move(values);
}

/// Part of a picture, without a copy.
struct View {
  const std::uint8_t* data = nullptr;
  int height = 0, width = 0, channels = 0;
  std::ptrdiff_t stride = 0;
  const std::uint8_t* row(int y) const { return data + y * stride; }
};

View view_of(const Image& image, int y, int x, int height, int width) {
  return {image.at(y, x), height, width, image.channels, static_cast<std::ptrdiff_t>(image.width) * image.channels};
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

/// The same for three or four channels with one vector a sample. Reads and writes one byte more than a row of three
/// channels has: not for the last row of a picture.
template <int kChannels>
void resize_row_in_fours(const std::uint8_t* source, std::uint8_t* target, const Weights& w) {
  using Bytes [[gnu::vector_size(4)]] = std::uint8_t;
  using Ints [[gnu::vector_size(16)]] = int;
  constexpr int kHalf = 1 << (kPrecisionBits - 1);
  const int n = w.outputs();
  for (int x = 0; x < n; ++x, target += kChannels) {
    const int* k = w.of(x);
    const int count = w.count[static_cast<std::size_t>(x)];
    const std::uint8_t* from = source + static_cast<std::ptrdiff_t>(w.first[static_cast<std::size_t>(x)]) * kChannels;
    Ints sums{kHalf, kHalf, kHalf, kHalf};
    for (int i = 0; i < count; ++i, from += kChannels) {
      Bytes bytes;
      std::memcpy(&bytes, from, sizeof bytes);
      sums += __builtin_convertvector(bytes, Ints) * k[i];
    }
    sums >>= kPrecisionBits;
    sums = sums < 0 ? Ints{} : sums;
    sums = sums > 255 ? Ints{255, 255, 255, 255} : sums;
    const Bytes bytes = __builtin_convertvector(sums, Bytes);
    std::memcpy(target, &bytes, sizeof bytes);
  }
}

Image resize_rows(const View& image, const Weights& w) {
  using Row = void (*)(const std::uint8_t*, std::uint8_t*, const Weights&);
  static constexpr Row kRows[] = {resize_row<1>, resize_row<2>, resize_row_in_fours<3>, resize_row_in_fours<4>};
  static constexpr Row kLastRows[] = {resize_row<1>, resize_row<2>, resize_row<3>, resize_row<4>};
  DIVERGEN_CHECK(image.channels >= 1 && image.channels <= 4, image.channels);
  Image out(image.height, w.outputs(), image.channels);
  for (int y = 0; y < image.height; ++y)
    (y + 1 < image.height ? kRows : kLastRows)[image.channels - 1](image.row(y), out.at(y, 0), w);
  return out;
}

/// Rows of `n` bytes, weighted and summed: two at a time, so that a sum is read and written half as often. Loops over
/// `n` are vector code.
void add_rows(const std::uint8_t* __restrict a, int ka, const std::uint8_t* __restrict b, int kb, int* __restrict sums,
              std::size_t n) {
  for (std::size_t x = 0; x < n; ++x) sums[x] += a[x] * ka + b[x] * kb;
}

void blend_two_rows(const std::uint8_t* __restrict a, int ka, const std::uint8_t* __restrict b, int kb,
                    std::uint8_t* __restrict out, std::size_t n) {
  constexpr int kHalf = 1 << (kPrecisionBits - 1);
  for (std::size_t x = 0; x < n; ++x) out[x] = clip8(kHalf + a[x] * ka + b[x] * kb);
}

void finish_row(const int* __restrict sums, std::uint8_t* __restrict out, std::size_t n) {
  for (std::size_t x = 0; x < n; ++x) out[x] = clip8(sums[x]);
}

Image resize_columns(const View& image, const Weights& w) {
  Image out(w.outputs(), image.width, image.channels);
  const auto n = static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.channels);
  std::vector<int> sums(n);
  for (int y = 0; y < out.height; ++y) {
    const int* k = w.of(y);
    const int first = w.first[static_cast<std::size_t>(y)], count = w.count[static_cast<std::size_t>(y)];
    // A second row of weight 0 stands in where there is one alone.
    const auto second = [&](int i) { return image.row(first + std::min(i, count - 1)); };
    const auto weight = [&](int i) { return i < count ? k[i] : 0; };
    if (count <= 2) {
      blend_two_rows(image.row(first), k[0], second(1), weight(1), out.at(y, 0), n);
      continue;
    }
    std::fill(sums.begin(), sums.end(), 1 << (kPrecisionBits - 1));
    for (int i = 0; i < count; i += 2)
      add_rows(image.row(first + i), k[i], second(i + 1), weight(i + 1), sums.data(), n);
    finish_row(sums.data(), out.at(y, 0), n);
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
                        int window_width, bool flip) {
  DIVERGEN_CHECK(height > 0 && width > 0 && !image.empty(), height, "x", width);
  DIVERGEN_CHECK(y >= 0 && x >= 0 && window_height > 0 && window_width > 0 && y + window_height <= height &&
                     x + window_width <= width,
                 window_height, "x", window_width, " at ", y, ", ", x, " of ", height, "x", width);
  const auto flipped = [&](Image out) { return flip ? flip_horizontal(out) : out; };
  if (image.height == height && image.width == width) return flipped(crop(image, x, y, window_width, window_height));
  if (filter == Filter::Nearest) return flipped(nearest(image, height, width, y, x, window_height, window_width));
  // Each pass works on just what the window takes; a pass that changes nothing is a cut, as Pillow skips it.
  const bool scales_rows = image.width != width, scales_columns = image.height != height;
  Weights across, down;
  if (scales_rows) across = make_weights(image.width, width, x, window_width, filter);
  if (scales_columns) down = make_weights(image.height, height, y, window_height, filter);
  const int left = scales_rows ? across.begin() : x, right = scales_rows ? across.end() : x + window_width;
  const int top = scales_columns ? down.begin() : y, lower = scales_columns ? down.end() : y + window_height;
  for (int& first : across.first) first -= left;
  for (int& first : down.first) first -= top;
  if (flip && scales_rows) reverse(across);
  const View source = view_of(image, top, left, lower - top, right - left);
  const auto whole = [](const Image& of) { return view_of(of, 0, 0, of.height, of.width); };
  if (!scales_rows) return flipped(resize_columns(source, down));
  if (!scales_columns) return resize_rows(source, across);
  if (vertical_first(image, height, width)) return resize_rows(whole(resize_columns(source, down)), across);
  return resize_columns(whole(resize_rows(source, across)), down);
}

}  // namespace divergen::image
