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

/// For each output sample: which input samples it takes, and with which fixed-point weights.
struct Weights {
  int size = 0;  // weights of one output sample
  std::vector<int> first, count;
  std::vector<int> values;
};

Weights make_weights(int in, int out, Filter filter) {
  const double scale = static_cast<double>(in) / out;
  const double stretch = std::max(scale, 1.0);
  const double support = (filter == Filter::Bilinear ? 1.0 : 2.0) * stretch;
  Weights w;
  w.size = static_cast<int>(std::ceil(support)) * 2 + 1;
  w.values.assign(static_cast<std::size_t>(w.size) * static_cast<std::size_t>(out), 0);
  std::vector<double> k(static_cast<std::size_t>(w.size));
  for (int i = 0; i < out; ++i) {
    const double centre = (i + 0.5) * scale;
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

Image resize_rows(const Image& image, int width, const Weights& w) {
  Image out(image.height, width, image.channels);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < width; ++x) {
      const int* k = &w.values[static_cast<std::size_t>(x) * static_cast<std::size_t>(w.size)];
      const int first = w.first[static_cast<std::size_t>(x)], count = w.count[static_cast<std::size_t>(x)];
      for (int c = 0; c < image.channels; ++c) {
        int sum = 1 << (kPrecisionBits - 1);
        const std::uint8_t* source = image.at(y, first) + c;
        for (int i = 0; i < count; ++i) sum += source[i * image.channels] * k[i];
        out.at(y, x)[c] = clip8(sum);
      }
    }
  return out;
}

Image resize_columns(const Image& image, int height, const Weights& w) {
  Image out(height, image.width, image.channels);
  const int row = image.width * image.channels;
  std::vector<int> sums(static_cast<std::size_t>(row));
  for (int y = 0; y < height; ++y) {
    const int* k = &w.values[static_cast<std::size_t>(y) * static_cast<std::size_t>(w.size)];
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

Image nearest(const Image& image, int height, int width) {
  Image out(height, width, image.channels);
  const double step_y = static_cast<double>(image.height) / height, step_x = static_cast<double>(image.width) / width;
  for (int y = 0; y < height; ++y) {
    const int from_y = std::min(static_cast<int>((y + 0.5) * step_y), image.height - 1);
    for (int x = 0; x < width; ++x) {
      const int from_x = std::min(static_cast<int>((x + 0.5) * step_x), image.width - 1);
      std::copy_n(image.at(from_y, from_x), image.channels, out.at(y, x));
    }
  }
  return out;
}

}  // namespace

Image pil_resize(const Image& image, int height, int width, Filter filter) {
  DIVERGEN_CHECK(height > 0 && width > 0 && !image.empty(), height, "x", width);
  if (image.height == height && image.width == width) return image;
  if (filter == Filter::Nearest) return nearest(image, height, width);
  const auto columns = [&](const Image& from) {
    return from.height == height ? from : resize_columns(from, height, make_weights(from.height, height, filter));
  };
  const auto rows = [&](const Image& from) {
    return from.width == width ? from : resize_rows(from, width, make_weights(from.width, width, filter));
  };
  return vertical_first(image, height, width) ? rows(columns(image)) : columns(rows(image));
}

}  // namespace divergen::image
