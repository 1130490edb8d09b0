// The Poisson system of blend.hpp. Pixels with an identity row are known at once; the rest (the mask's pixels and the
// canvas's border) is a principal part of the five-point Laplacian, symmetric and positive definite.

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.hpp"
#include "stages/augment/blend.hpp"

namespace divergen::stages {
namespace {

/// Red, green, blue of one unknown and a lane of zeros: one vector, so that three systems cost one walk.
using Lanes [[gnu::vector_size(32)]] = double;

struct System {
  int height = 0, width = 0;
  std::vector<std::int32_t> pixels;                    // of the unknowns
  std::vector<std::uint8_t> is_inside;                 // of each: whether the mask has it, or the border alone
  std::vector<std::int32_t> unknown_at;                // pixel -> unknown; pixels.size() where it is known
  std::vector<std::array<std::int32_t, 4>> neighbour;  // unknown -> unknowns beside it, or pixels.size()

  /// Calls each(pixel) for the neighbours that the canvas has.
  template <class Each>
  void around(std::int32_t pixel, const Each& each) const {
    const int y = pixel / width, x = pixel % width;
    if (x > 0) each(pixel - 1);
    if (x + 1 < width) each(pixel + 1);
    if (y > 0) each(pixel - width);
    if (y + 1 < height) each(pixel + width);
  }
  bool is_known(std::int32_t pixel) const {
    return unknown_at[static_cast<std::size_t>(pixel)] == static_cast<std::int32_t>(pixels.size());
  }
};

System make_system(int height, int width, const BoxMask& mask) {
  System s;
  s.height = height;
  s.width = width;
  const auto add = [&](int y, int x, bool is_inside) {
    s.pixels.push_back(y * width + x);
    s.is_inside.push_back(is_inside);
  };
  const auto inside = [&](int y, int x) {
    const int row = y - mask.y, column = x - mask.x;
    return row >= 0 && row < mask.bits.height && column >= 0 && column < mask.bits.width &&
           *mask.bits.at(row, column) != 0;
  };
  for (int y = 0; y < height; ++y) {
    const bool is_edge = y == 0 || y == height - 1;
    if (is_edge) {
      for (int x = 0; x < width; ++x) add(y, x, inside(y, x));
      continue;
    }
    add(y, 0, inside(y, 0));
    if (y >= mask.y && y < mask.y + mask.bits.height)
      for (int x = std::max(1, mask.x); x < std::min(width - 1, mask.x + mask.bits.width); ++x)
        if (inside(y, x)) add(y, x, true);
    if (width > 1) add(y, width - 1, inside(y, width - 1));
  }
  const auto none = static_cast<std::int32_t>(s.pixels.size());
  s.unknown_at.assign(static_cast<std::size_t>(height) * static_cast<std::size_t>(width), none);
  for (std::size_t i = 0; i < s.pixels.size(); ++i)
    s.unknown_at[static_cast<std::size_t>(s.pixels[i])] = static_cast<std::int32_t>(i);
  s.neighbour.reserve(s.pixels.size());
  for (const std::int32_t pixel : s.pixels) {
    auto& beside = s.neighbour.emplace_back(std::array{none, none, none, none});
    std::size_t n = 0;
    s.around(pixel, [&](std::int32_t other) { beside[n++] = s.unknown_at[static_cast<std::size_t>(other)]; });
  }
  return s;
}

Lanes dot(const std::vector<Lanes>& a, const std::vector<Lanes>& b) {
  Lanes sum{};
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// `x` has one element more than there are unknowns, a zero.
void multiply(const System& s, const std::vector<Lanes>& x, std::vector<Lanes>& out) {
  for (std::size_t i = 0; i < s.neighbour.size(); ++i) {
    Lanes sum = 4.0 * x[i];
    for (const std::int32_t j : s.neighbour[i]) sum -= x[static_cast<std::size_t>(j)];
    out[i] = sum;
  }
}

/// Conjugate gradients from `x`, one problem a lane. In exact arithmetic they end after as many steps as there are
/// unknowns.
void solve(const System& s, const std::vector<Lanes>& b, std::vector<Lanes>& x) {
  const std::size_t n = s.pixels.size();
  std::vector<Lanes> residual(n + 1), direction, product(n + 1);
  multiply(s, x, product);
  for (std::size_t i = 0; i < n; ++i) residual[i] = b[i] - product[i];
  direction = residual;
  Lanes energy = dot(residual, residual);
  const Lanes enough = 1e-28 * dot(b, b);  // (1e-14)^2
  for (std::size_t step = 0; step < 2 * n + 100; ++step) {
    const auto open = energy > enough;  // lanes that are not done
    if ((open[0] | open[1] | open[2] | open[3]) == 0) break;
    multiply(s, direction, product);
    const Lanes curvature = dot(direction, product);
    const Lanes length = open ? energy / curvature : Lanes{};
    for (std::size_t i = 0; i < n; ++i) {
      x[i] += length * direction[i];
      residual[i] -= length * product[i];
    }
    const Lanes before = energy;
    energy = dot(residual, residual);
    const Lanes turn = open ? energy / before : Lanes{};
    for (std::size_t i = 0; i < n; ++i) direction[i] = residual[i] + turn * direction[i];
  }
}

/// Values of the unknowns.
std::vector<Lanes> solution_of(const System& s, const image::Image& canvas, const image::Image& patch, int x, int y) {
  const auto old_at = [&](std::int32_t pixel) {
    const std::uint8_t* at = canvas.pixels.data() + static_cast<std::size_t>(pixel) * 3;
    return Lanes{static_cast<double>(at[0]), static_cast<double>(at[1]), static_cast<double>(at[2]), 0};
  };
  const auto patch_at = [&](std::int32_t pixel) {
    const int py = pixel / s.width - y, px = pixel % s.width - x;
    if (py < 0 || py >= patch.height || px < 0 || px >= patch.width) return Lanes{};
    const std::uint8_t* at = patch.at(py, px);
    return Lanes{static_cast<double>(at[0]), static_cast<double>(at[1]), static_cast<double>(at[2]), 0};
  };
  std::vector<Lanes> right(s.pixels.size() + 1), values(s.pixels.size() + 1);
  for (std::size_t i = 0; i < s.pixels.size(); ++i) {
    const std::int32_t pixel = s.pixels[i];
    const bool is_inside = s.is_inside[i] != 0;
    Lanes b = is_inside ? 4.0 * patch_at(pixel) : old_at(pixel);
    s.around(pixel, [&](std::int32_t other) {
      if (is_inside) b -= patch_at(other);
      if (s.is_known(other)) b += old_at(other);
    });
    right[i] = b;
    values[i] = old_at(pixel);
  }
  solve(s, right, values);
  return values;
}

}  // namespace

std::vector<double> poisson_solution(const image::Image& canvas, const image::Image& patch, int x, int y,
                                     const BoxMask& mask) {
  const System s = make_system(canvas.height, canvas.width, mask);
  const std::vector<Lanes> values = solution_of(s, canvas, patch, x, y);
  std::vector<double> out(canvas.pixels.begin(), canvas.pixels.end());
  for (std::size_t i = 0; i < s.pixels.size(); ++i)
    for (int c = 0; c < 3; ++c)
      out[static_cast<std::size_t>(s.pixels[i]) * 3 + static_cast<std::size_t>(c)] = values[i][c];
  return out;
}

void blend_poisson(image::Image& canvas, const image::Image& patch, int x, int y, const BoxMask& mask) {
  const System s = make_system(canvas.height, canvas.width, mask);
  const std::vector<Lanes> values = solution_of(s, canvas, patch, x, y);
  for (std::size_t i = 0; i < s.pixels.size(); ++i)
    for (int c = 0; c < 3; ++c) {
      // Where the exact solution is a whole number, truncation must not depend on the solver's last bits.
      const double nearest = std::nearbyint(values[i][c]);
      const double value = std::abs(values[i][c] - nearest) < 1e-7 ? nearest : values[i][c];
      canvas.pixels[static_cast<std::size_t>(s.pixels[i]) * 3 + static_cast<std::size_t>(c)] =
          static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0));
    }
}

}  // namespace divergen::stages
