// The Poisson system of blend.hpp. Pixels with an identity row are known at once; the rest (the mask's pixels and the
// canvas's border) is a principal part of the five-point Laplacian, symmetric and positive definite.

#include <array>
#include <cmath>

#include "base/error.hpp"
#include "stages/augment/blend.hpp"

namespace divergen::stages {
namespace {

constexpr std::int32_t kNone = -1;

struct System {
  int height = 0, width = 0;
  std::vector<std::int32_t> pixels;                    // of the unknowns
  std::vector<std::int32_t> unknown_at;                // pixel -> unknown, or kNone
  std::vector<std::array<std::int32_t, 4>> neighbour;  // unknown -> unknowns beside it, or kNone

  /// Calls each(pixel) for the neighbours that the canvas has.
  template <class Each>
  void around(std::int32_t pixel, const Each& each) const {
    const int y = pixel / width, x = pixel % width;
    if (x > 0) each(pixel - 1);
    if (x + 1 < width) each(pixel + 1);
    if (y > 0) each(pixel - width);
    if (y + 1 < height) each(pixel + width);
  }
};

System make_system(int height, int width, const image::Image& inside) {
  System s;
  s.height = height;
  s.width = width;
  s.unknown_at.assign(inside.pixels.size(), kNone);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const bool is_border = y == 0 || x == 0 || y == height - 1 || x == width - 1;
      if (!is_border && *inside.at(y, x) == 0) continue;
      const std::int32_t pixel = y * width + x;
      s.unknown_at[static_cast<std::size_t>(pixel)] = static_cast<std::int32_t>(s.pixels.size());
      s.pixels.push_back(pixel);
    }
  for (const std::int32_t pixel : s.pixels) {
    auto& around = s.neighbour.emplace_back(std::array<std::int32_t, 4>{kNone, kNone, kNone, kNone});
    std::size_t n = 0;
    s.around(pixel, [&](std::int32_t other) { around[n++] = s.unknown_at[static_cast<std::size_t>(other)]; });
  }
  return s;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void multiply(const System& s, const std::vector<double>& x, std::vector<double>& out) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    double sum = 4 * x[i];
    for (const std::int32_t j : s.neighbour[i])
      if (j != kNone) sum -= x[static_cast<std::size_t>(j)];
    out[i] = sum;
  }
}

/// Conjugate gradients from `x`. In exact arithmetic they end after as many steps as there are unknowns.
void solve(const System& s, const std::vector<double>& b, std::vector<double>& x) {
  const std::size_t n = b.size();
  std::vector<double> residual(n), direction, product(n);
  multiply(s, x, product);
  for (std::size_t i = 0; i < n; ++i) residual[i] = b[i] - product[i];
  direction = residual;
  double energy = dot(residual, residual);
  const double enough = 1e-28 * dot(b, b);  // (1e-14)^2
  for (std::size_t step = 0; step < 2 * n + 100 && energy > enough; ++step) {
    multiply(s, direction, product);
    const double length = energy / dot(direction, product);
    for (std::size_t i = 0; i < n; ++i) {
      x[i] += length * direction[i];
      residual[i] -= length * product[i];
    }
    const double before = energy;
    energy = dot(residual, residual);
    for (std::size_t i = 0; i < n; ++i) direction[i] = residual[i] + energy / before * direction[i];
  }
}

}  // namespace

std::vector<double> poisson_solution(const image::Image& canvas, const image::Image& patch, int x, int y,
                                     const BoxMask& mask) {
  const image::Image inside = mask.on_canvas(canvas.height, canvas.width);
  const System s = make_system(canvas.height, canvas.width, inside);
  std::vector<double> out(canvas.pixels.begin(), canvas.pixels.end());
  std::vector<double> right(s.pixels.size()), values(s.pixels.size());
  for (int c = 0; c < 3; ++c) {
    const auto old_at = [&](std::int32_t pixel) -> double {
      return canvas.pixels[static_cast<std::size_t>(pixel) * 3 + static_cast<std::size_t>(c)];
    };
    const auto patch_at = [&](std::int32_t pixel) -> double {
      const int py = pixel / s.width - y, px = pixel % s.width - x;
      return py >= 0 && py < patch.height && px >= 0 && px < patch.width ? patch.at(py, px)[c] : 0;
    };
    for (std::size_t i = 0; i < s.pixels.size(); ++i) {
      const std::int32_t pixel = s.pixels[i];
      const bool is_inside = inside.pixels[static_cast<std::size_t>(pixel)] != 0;
      double b = is_inside ? 4 * patch_at(pixel) : old_at(pixel);
      s.around(pixel, [&](std::int32_t other) {
        if (is_inside) b -= patch_at(other);
        if (s.unknown_at[static_cast<std::size_t>(other)] == kNone) b += old_at(other);
      });
      right[i] = b;
      values[i] = old_at(pixel);
    }
    solve(s, right, values);
    for (std::size_t i = 0; i < s.pixels.size(); ++i)
      out[static_cast<std::size_t>(s.pixels[i]) * 3 + static_cast<std::size_t>(c)] = values[i];
  }
  return out;
}

}  // namespace divergen::stages
