#include "miniworld/pictures.hpp"

#include <algorithm>
#include <cmath>
#include <set>

namespace divergen::miniworld {
namespace {

constexpr std::array<const char*, kOpeners> kOpenings{"an image of", "a photo of", "an illustration of",
                                                      "a real photo of", "a photography of"};

constexpr std::array<std::array<int, 3>, kBackgrounds.size()> kBackgroundColours{
    {{250, 250, 250}, {185, 208, 238}, {192, 230, 192}, {243, 200, 212}, {238, 226, 190}, {196, 196, 202}}};

std::string spaced(std::string text) {
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

/// A nearly plain background: a colour, a weak gradient, a soft shadow under the object.
image::Image background(int index, int size, const Look& look, Rng& rng) {
  const auto& colour = kBackgroundColours[static_cast<std::size_t>(index)];
  const double slope_x = rng.uniform(-6, 6), slope_y = rng.uniform(-6, 6);
  double base[3];
  for (int k = 0; k < 3; ++k) base[k] = colour[static_cast<std::size_t>(k)] + rng.uniform(-6, 6);
  const double shadow_y = look.centre_y + 0.45 * look.size, shadow = rng.uniform(0, 0.14);
  image::Image out(size, size, 3);
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x) {
      const double dx = (x - look.centre_x) / (0.42 * look.size), dy = (y - shadow_y) / (0.07 * look.size);
      const double dark = 1 - shadow * std::max(0.0, 1 - dx * dx - dy * dy);
      for (int k = 0; k < 3; ++k) {
        const double v = (base[k] + slope_x * (2.0 * x / size - 1) + slope_y * (2.0 * y / size - 1)) * dark;
        out.at(y, x)[k] = static_cast<std::uint8_t>(std::clamp(v, 0.0, 255.0));
      }
    }
  return out;
}

Look look_for(const Description& d, int size, Rng& rng) {
  Look look;
  look.size = size * rng.uniform(0.66, 0.92);
  const double room = 0.5 * (size - look.size);
  look.centre_x = 0.5 * size + rng.uniform(-0.6, 0.6) * room;
  look.centre_y = 0.5 * size + rng.uniform(-0.6, 0.6) * room;
  look.angle = d.tilt == 0 ? 5 * rng.normal() : (d.tilt == 1 ? 1 : -1) * rng.uniform(22, 42);
  look.angle = std::clamp(look.angle, -45.0, 45.0);
  look.aspect = std::exp(0.1 * rng.normal());
  look.shear = 0.06 * rng.normal();
  look.mirrored = rng.chance(0.5);
  look.cast = d.cast;
  look.cast_strength = rng.uniform(0.7, 1);
  look.brightness = rng.uniform(0.9, 1.06);
  look.contrast = rng.uniform(0.9, 1.08);
  look.light_angle = rng.uniform(0, 360);
  look.light_strength = rng.uniform(0, 0.16);
  return look;
}

}  // namespace

std::string caption_of(const std::string& name, const std::string& definition, const Description& d) {
  if (d.is_template) return cat("a photo of a single ", spaced(name), ", ", definition, ", in a white background");
  const std::string cast = kCasts[static_cast<std::size_t>(d.cast)];
  static constexpr const char* kTilts[] = {"", " tilted to the left", " tilted to the right"};
  return cat(kOpenings[static_cast<std::size_t>(d.opener)], " a ", cast, cast.empty() ? "" : " ", spaced(name),
             kTilts[d.tilt], ", in a ", kBackgrounds[static_cast<std::size_t>(d.background)], " background");
}

Description random_description(Rng& rng) {
  Description d;
  d.is_template = rng.chance(0.4);
  if (d.is_template) return d;
  d.cast = rng.chance(0.4) ? 0 : static_cast<int>(rng.range(1, kCasts.size()));
  d.background = static_cast<int>(rng.range(0, kBackgrounds.size()));
  d.tilt = rng.chance(0.5) ? 0 : static_cast<int>(rng.range(1, 3));
  d.opener = static_cast<int>(rng.range(0, kOpeners));
  return d;
}

Picture make_picture(const World& world, std::size_t sprite, const Description& description, int size, Rng& rng) {
  const Sprite& source = world.sprites().at(sprite);
  const std::string definition =
      source.category_id == 0 ? spaced(source.name) : world.category(source.category_id).definition;
  Picture out;
  out.description = description;
  out.sprite = sprite;
  out.caption = caption_of(source.name, definition, description);
  const Look look = look_for(description, size, rng);
  out.rgb = background(description.background, size, look, rng);
  const image::Image object = draw(source.picture, look, size, size);
  blend_over(out.rgb, object);
  out.mask = image::Image(size, size, 1);
  for (std::size_t i = 0; i < out.mask.pixels.size(); ++i) out.mask.pixels[i] = object.pixels[4 * i + 3];
  return out;
}

std::vector<std::string> descriptive_prompts(const Category& category, int count, std::uint64_t seed) {
  Rng rng(derive_seed(seed, "prompts", {static_cast<std::uint64_t>(category.id)}));
  std::set<std::string> seen;
  std::vector<std::string> out;
  while (static_cast<int>(out.size()) < count) {
    Description d = random_description(rng);
    if (d.is_template) continue;
    std::string text = caption_of(category.name, category.definition, d);
    if (seen.insert(text).second) out.push_back(std::move(text));
  }
  return out;
}

}  // namespace divergen::miniworld
