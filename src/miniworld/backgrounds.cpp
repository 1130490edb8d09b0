#include "miniworld/backgrounds.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numbers>

namespace divergen::miniworld {
namespace {

using Colour = std::array<double, 3>;
/// Brightness 0..1 of a texture at (u, v), which run over 0..1 across the picture.
using Field = std::function<double(double, double)>;
constexpr double kPi = std::numbers::pi;

Colour from_hsv(double hue, double saturation, double value) {
  Colour out{};
  for (int k = 0; k < 3; ++k) {
    const double h = std::fmod(hue + 2.0 * k + 12.0, 6.0);  // distance on the colour circle, in sixths
    const double share = std::clamp(std::abs(h - 3.0) - 1.0, 0.0, 1.0);
    out[static_cast<std::size_t>(k)] = 255 * value * (1 - saturation * (1 - share));
  }
  return out;
}

/// Three related colours: a base, a neighbour or complement, and one in between of another lightness.
std::array<Colour, 3> random_palette(Rng& rng) {
  const double hue = rng.uniform(0, 6), saturation = rng.uniform(0.04, 0.6), value = rng.uniform(0.3, 0.95);
  const double turn = rng.chance(0.25) ? 3 + rng.uniform(-0.5, 0.5) : rng.uniform(-0.9, 0.9);
  const double step = rng.uniform(0.1, 0.4) * (value > 0.6 ? -1 : 1);
  return {
      from_hsv(hue, saturation, value),
      from_hsv(hue + 0.5 * turn + 6, saturation * rng.uniform(0.6, 1.2), std::clamp(value + 0.5 * step, 0.0, 1.0)),
      from_hsv(hue + turn + 6, std::min(1.0, saturation * rng.uniform(0.7, 1.4)), std::clamp(value + step, 0.0, 1.0))};
}

double lattice(std::uint64_t seed, std::int64_t x, std::int64_t y) {
  std::uint64_t h = seed ^ (static_cast<std::uint64_t>(x) * 0x9E3779B97F4A7C15ull) ^
                    (static_cast<std::uint64_t>(y) * 0xC2B2AE3D27D4EB4Full);
  h = (h ^ (h >> 29)) * 0xBF58476D1CE4E5B9ull;
  h = (h ^ (h >> 32)) * 0x94D049BB133111EBull;
  return static_cast<double>(h >> 40) / static_cast<double>(1u << 24);
}

/// Smoothly interpolated lattice noise, 0..1.
double value_noise(std::uint64_t seed, double x, double y) {
  const double fx = std::floor(x), fy = std::floor(y);
  const auto ix = static_cast<std::int64_t>(fx), iy = static_cast<std::int64_t>(fy);
  const auto smooth = [](double t) { return t * t * (3 - 2 * t); };
  const double sx = smooth(x - fx), sy = smooth(y - fy);
  const double top = std::lerp(lattice(seed, ix, iy), lattice(seed, ix + 1, iy), sx);
  const double bottom = std::lerp(lattice(seed, ix, iy + 1), lattice(seed, ix + 1, iy + 1), sx);
  return std::lerp(top, bottom, sy);
}

double fractal_noise(std::uint64_t seed, double x, double y) {
  return (value_noise(seed, x, y) + 0.5 * value_noise(seed + 1, 2.03 * x, 2.03 * y) +
          0.25 * value_noise(seed + 2, 4.1 * x, 4.1 * y)) /
         1.75;
}

/// A soft step from 0 to 1 around 0 over `width`.
double soft_step(double t, double width) { return std::clamp(t / width + 0.5, 0.0, 1.0); }

struct Rotation {
  double c, s;
  explicit Rotation(Rng& rng) : Rotation(rng.uniform(0, kPi)) {}
  explicit Rotation(double angle) : c(std::cos(angle)), s(std::sin(angle)) {}
  double along(double u, double v) const { return c * u + s * v; }
  double across(double u, double v) const { return -s * u + c * v; }
};

Field gradient(Rng& rng) {
  if (rng.chance(0.4)) {
    const double x = rng.uniform(-0.1, 1.1), y = rng.uniform(-0.1, 1.1), reach = rng.uniform(0.6, 1.2);
    return [=](double u, double v) { return std::hypot(u - x, v - y) / reach; };
  }
  const Rotation turn(rng.uniform(0, 2 * kPi));
  const double spread = rng.uniform(0.7, 1.3);
  return [=](double u, double v) { return 0.5 + turn.along(u - 0.5, v - 0.5) * spread; };
}

Field stripes(Rng& rng) {
  const Rotation turn(rng);
  const double period = rng.uniform(0.06, 0.3), phase = rng.uniform(), duty = rng.uniform(0.3, 0.7),
               soft = rng.uniform(0.08, 0.6), wobble = rng.chance(0.4) ? rng.uniform(0.01, 0.05) : 0.0,
               wave = rng.uniform(5, 14);
  return [=](double u, double v) {
    const double t = (turn.along(u, v) + wobble * std::sin(wave * turn.across(u, v))) / period + phase;
    const double place = t - std::floor(t);
    return soft_step(duty / 2 - std::abs(place - 0.5), soft);
  };
}

Field checks(Rng& rng) {
  const Rotation turn(rng);
  const double side = rng.uniform(0.07, 0.28), x = rng.uniform(), y = rng.uniform(), tall = rng.uniform(0.6, 1.6);
  return [=](double u, double v) {
    const double a = std::sin(kPi * (turn.along(u, v) / side + x)),
                 b = std::sin(kPi * (turn.across(u, v) / (side * tall) + y));
    return std::clamp(0.5 + 4 * a * b, 0.0, 1.0);
  };
}

Field noise(Rng& rng) {
  const std::uint64_t seed = rng.next64();
  const double scale = std::exp(rng.uniform(std::log(2.5), std::log(16.0))), sharp = rng.uniform(1.2, 3);
  return [=](double u, double v) { return 0.5 + sharp * (fractal_noise(seed, scale * u, scale * v) - 0.5); };
}

Field blobs(Rng& rng) {
  struct Blob {
    double x, y, radius, level;
  };
  std::vector<Blob> all(static_cast<std::size_t>(rng.range(5, 18)));
  for (Blob& b : all) b = {rng.uniform(-0.1, 1.1), rng.uniform(-0.1, 1.1), rng.uniform(0.05, 0.28), rng.uniform()};
  const double soft = rng.uniform(0.15, 1.0), ground = rng.uniform();
  return [all, soft, ground](double u, double v) {
    double t = ground;
    for (const Blob& b : all) t = std::lerp(t, b.level, soft_step(1 - std::hypot(u - b.x, v - b.y) / b.radius, soft));
    return t;
  };
}

Field waves(Rng& rng) {
  std::array<std::array<double, 3>, 3> parts{};
  for (auto& p : parts) p = {rng.uniform(-20, 20), rng.uniform(-20, 20), rng.uniform(0, 2 * kPi)};
  return [parts](double u, double v) {
    double sum = 0;
    for (const auto& p : parts) sum += std::sin(p[0] * u + p[1] * v + p[2]);
    return 0.5 + sum / 6;
  };
}

Field dots(Rng& rng) {
  const Rotation turn(rng);
  const double pitch = rng.uniform(0.09, 0.26), radius = rng.uniform(0.2, 0.42), soft = rng.uniform(0.08, 0.3),
               x = rng.uniform(), y = rng.uniform();
  return [=](double u, double v) {
    const double a = turn.along(u, v) / pitch + x, b = turn.across(u, v) / pitch + y;
    return soft_step(radius - std::hypot(a - std::floor(a) - 0.5, b - std::floor(b) - 0.5), soft);
  };
}

Field cells(Rng& rng) {
  struct Seed {
    double x, y, level;
  };
  std::vector<Seed> all(static_cast<std::size_t>(rng.range(8, 28)));
  for (Seed& s : all) s = {rng.uniform(-0.1, 1.1), rng.uniform(-0.1, 1.1), rng.uniform()};
  const bool leaded = rng.chance(0.5);
  return [all, leaded](double u, double v) {
    double first = 9, second = 9, level = 0;
    for (const Seed& s : all) {
      const double d = std::hypot(u - s.x, v - s.y);
      if (d < first) {
        second = first;
        first = d;
        level = s.level;
      } else {
        second = std::min(second, d);
      }
    }
    return leaded && second - first < 0.012 ? 0.0 : level;
  };
}

Field rings(Rng& rng) {
  const double x = rng.uniform(-0.3, 1.3), y = rng.uniform(-0.3, 1.3), period = rng.uniform(0.06, 0.25),
               squeeze = rng.uniform(0.6, 1.6), sharp = rng.uniform(0.5, 3);
  return [=](double u, double v) {
    return std::clamp(0.5 + sharp * std::sin(2 * kPi * std::hypot(u - x, squeeze * (v - y)) / period) / 2, 0.0, 1.0);
  };
}

/// Stretched noise, like wood or brushed metal.
Field grain(Rng& rng) {
  const Rotation turn(rng);
  const std::uint64_t seed = rng.next64();
  const double fine = rng.uniform(14, 40), coarse = rng.uniform(1, 4), bend = rng.uniform(0, 1.5);
  return [=](double u, double v) {
    const double a = turn.along(u, v), b = turn.across(u, v);
    return 0.5 + 1.6 * (fractal_noise(seed, fine * a + bend * std::sin(5 * b), coarse * b) - 0.5);
  };
}

Field bricks(Rng& rng) {
  const Rotation turn(rng.chance(0.7) ? 0.05 * rng.normal() : rng.uniform(0, kPi));
  const double height = rng.uniform(0.08, 0.2), width = height * rng.uniform(1.2, 3), joint = rng.uniform(0.06, 0.16);
  const std::uint64_t seed = rng.next64();
  return [=](double u, double v) {
    const double row = std::floor(turn.across(u, v) / height);
    const double along = turn.along(u, v) / width + 0.5 * std::fmod(std::abs(row), 2.0);
    const double y = turn.across(u, v) / height - row, x = along - std::floor(along);
    if (y < joint || x < joint * height / width) return 0.0;
    return 0.55 + 0.45 * lattice(seed, static_cast<std::int64_t>(std::floor(along)), static_cast<std::int64_t>(row));
  };
}

Field random_field(Rng& rng) {
  static constexpr Field (*kFamilies[])(Rng&) = {gradient, stripes, checks, noise, blobs,  waves,
                                                 dots,     cells,   rings,  grain, bricks, noise};
  return kFamilies[rng.below(std::size(kFamilies))](rng);
}

}  // namespace

image::Image textured_background(int size, Rng& rng) {
  const auto palette = random_palette(rng);
  const Field field = random_field(rng);
  const double contrast = rng.uniform(0.35, 1), middle = rng.uniform(0.3, 0.7);
  const std::uint64_t fine_seed = rng.next64();
  const double fine = rng.uniform(0, 22), fine_scale = rng.uniform(12, 45);
  image::Image out(size, size, 3);
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x) {
      const double u = (x + 0.5) / size, v = (y + 0.5) / size;
      const double t = std::clamp(middle + contrast * (field(u, v) - middle), 0.0, 1.0);
      const double weak = fine * (value_noise(fine_seed, fine_scale * u, fine_scale * v) - 0.5);
      const Colour& a = t < 0.5 ? palette[0] : palette[1];
      const Colour& b = t < 0.5 ? palette[1] : palette[2];
      for (std::size_t k = 0; k < 3; ++k)
        out.at(y, x)[k] = static_cast<std::uint8_t>(
            std::clamp(std::lerp(a[k], b[k], t < 0.5 ? 2 * t : 2 * t - 1) + weak, 0.0, 255.0));
    }
  return out;
}

}  // namespace divergen::miniworld
