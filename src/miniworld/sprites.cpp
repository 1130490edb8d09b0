#include "miniworld/sprites.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <nlohmann/json.hpp>

#include "image/geometry.hpp"

namespace divergen::miniworld {
namespace {

using image::Image;

nlohmann::json parse(const Path& file) {
  auto json = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded())
    fail(ErrorKind::Data,
         {"a file of the mini world is damaged", file.string(), "it is not JSON", "restore it from git"});
  return json;
}

/// Multipliers of red, green, blue at full strength, in the order of kCasts.
constexpr std::array<std::array<double, 3>, kCasts.size()> kCastColours{
    {{1, 1, 1}, {1.15, 0.55, 0.5}, {0.5, 0.65, 1.2}, {0.55, 1.1, 0.55}, {1.2, 0.95, 0.4}, {0.5, 0.5, 0.55}, {1, 1, 1}}};
constexpr int kPale = 6;

/// Canvas pixel -> sprite pixel.
std::array<double, 6> inverse_map(const Look& look, int cell, double supersampling) {
  const double radians = look.angle * std::numbers::pi / 180.0;
  const double c = std::cos(radians), s = std::sin(radians);
  const double scale = cell / (look.size * supersampling);
  const double stretch = std::sqrt(look.aspect);
  const double flip = look.mirrored ? -1.0 : 1.0;
  // Rotation, then shear, then stretch and flip, all about the centre.
  const double a = c, b = -s, d = s, e = c;
  const double a2 = a + look.shear * d, b2 = b + look.shear * e;
  const double m00 = flip * scale / stretch * a2, m01 = flip * scale / stretch * b2;
  const double m10 = scale * stretch * d, m11 = scale * stretch * e;
  const double cx = look.centre_x * supersampling - 0.5, cy = look.centre_y * supersampling - 0.5,
               half = (cell - 1) / 2.0;
  return {m00, m01, half - m00 * cx - m01 * cy, m10, m11, half - m10 * cx - m11 * cy};
}

Image halve(const Image& big) {
  Image out(big.height / 2, big.width / 2, 4);
  for (int y = 0; y < out.height; ++y)
    for (int x = 0; x < out.width; ++x) {
      int alpha = 0, sum[3] = {0, 0, 0};
      for (int dy = 0; dy < 2; ++dy)
        for (int dx = 0; dx < 2; ++dx) {
          const std::uint8_t* p = big.at(2 * y + dy, 2 * x + dx);
          alpha += p[3];
          for (int k = 0; k < 3; ++k) sum[k] += p[k] * p[3];
        }
      std::uint8_t* target = out.at(y, x);
      target[3] = static_cast<std::uint8_t>((alpha + 2) / 4);
      for (int k = 0; k < 3 && alpha > 0; ++k) target[k] = static_cast<std::uint8_t>(sum[k] / alpha);
    }
  return out;
}

void recolour(Image& canvas, const Look& look) {
  const auto& cast = kCastColours[static_cast<std::size_t>(look.cast)];
  const double t = look.cast == 0 ? 0.0 : look.cast_strength;
  const double radians = look.light_angle * std::numbers::pi / 180.0;
  const double lx = std::cos(radians), ly = std::sin(radians);
  for (int y = 0; y < canvas.height; ++y)
    for (int x = 0; x < canvas.width; ++x) {
      std::uint8_t* p = canvas.at(y, x);
      if (p[3] == 0) continue;
      const double along = ((x - look.centre_x) * lx + (y - look.centre_y) * ly) / (0.5 * look.size);
      const double light = look.brightness * (1.0 + look.light_strength * along);
      const double grey = 0.3 * p[0] + 0.59 * p[1] + 0.11 * p[2];
      for (int k = 0; k < 3; ++k) {
        double v = p[k];
        // A cast pulls towards the tinted luminance, so that strongly coloured things take it too.
        const double tinted =
            look.cast == kPale ? 0.35 * v + 0.65 * 235 : (0.45 * v + 0.55 * grey) * cast[static_cast<std::size_t>(k)];
        v = (1 - t) * v + t * tinted;
        v = ((v - 128) * look.contrast + 128) * light;
        p[k] = static_cast<std::uint8_t>(std::clamp(v, 0.0, 255.0));
      }
    }
}

}  // namespace

World::World(const Path& folder) {
  const auto index = parse(folder / "sprites/sprites.json");
  const Path sheet_file = folder / "sprites/sprites.png";
  const image::Decoded sheet = image::decode(read_file(sheet_file), image::Channels::Rgba);
  if (!sheet.image)
    fail(ErrorKind::Data,
         {"the sprite sheet cannot be read", sheet_file.string(), sheet.problem, "restore it from git"});
  const int cell = index.at("cell"), grid = index.at("grid");
  int n = 0;
  for (const auto& entry : index.at("sprites")) {
    Sprite sprite;
    sprite.picture = image::crop(*sheet.image, n % grid * cell, n / grid * cell, cell, cell);
    sprite.name = entry.at("name");
    sprite.category_id = entry.at("category_id");
    const std::string role = entry.at("role");
    sprite.role = role == "eval" ? Role::Eval : role == "extra" ? Role::Extra : Role::Other;
    sprites_.push_back(std::move(sprite));
    ++n;
  }
  for (const auto& entry : parse(folder / "categories.json")) {
    Category category{
        entry.at("id"), entry.at("name"), entry.at("def"), entry.at("frequency"), entry.at("role") == "extra", {}};
    for (std::size_t i = 0; i < sprites_.size(); ++i)
      if (sprites_[i].category_id == category.id) category.sprites.push_back(i);
    categories_.push_back(std::move(category));
  }
}

const Category& World::category(std::int32_t id) const {
  for (const Category& category : categories_)
    if (category.id == id) return category;
  fail(ErrorKind::Data,
       {"the mini world has no such category", std::to_string(id), "", "see data/mini/categories.json"});
}

std::vector<std::size_t> World::sprites_of(Role role) const {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < sprites_.size(); ++i)
    if (sprites_[i].role == role) out.push_back(i);
  return out;
}

Image draw(const Image& sprite, const Look& look, int height, int width) {
  constexpr double kSupersampling = 2;
  Image canvas =
      halve(image::warp_affine(sprite, inverse_map(look, sprite.width, kSupersampling), 2 * height, 2 * width));
  recolour(canvas, look);
  return canvas;
}

void blend_over(Image& dst, const Image& src) {
  DIVERGEN_CHECK(dst.height == src.height && dst.width == src.width && dst.channels == 3 && src.channels == 4);
  const std::size_t count = dst.pixels.size() / 3;
  for (std::size_t i = 0; i < count; ++i) {
    const int alpha = src.pixels[4 * i + 3];
    for (std::size_t k = 0; k < 3; ++k) {
      std::uint8_t& d = dst.pixels[3 * i + k];
      d = static_cast<std::uint8_t>((d * (255 - alpha) + src.pixels[4 * i + k] * alpha + 127) / 255);
    }
  }
}

}  // namespace divergen::miniworld
