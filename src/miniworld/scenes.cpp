#include "miniworld/scenes.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "image/geometry.hpp"
#include "mask/rle.hpp"
#include "miniworld/backgrounds.hpp"

namespace divergen::miniworld {
namespace {

using image::Image;

/// Other sprites that show, or could be taken for, one of the categories.
const std::set<std::string>& lookalikes() {
  static const std::set<std::string> kNames{"trolleybus",
                                            "minibus",
                                            "bus_stop",
                                            "ambulance",
                                            "police_car",
                                            "oncoming_police_car",
                                            "taxi",
                                            "oncoming_taxi",
                                            "oncoming_automobile",
                                            "delivery_truck",
                                            "articulated_lorry",
                                            "pickup_truck",
                                            "auto_rickshaw",
                                            "airplane_departure",
                                            "airplane_arriving",
                                            "bicyclist",
                                            "mountain_bicyclist",
                                            "bellhop_bell",
                                            "guide_dog",
                                            "poodle",
                                            "whale",
                                            "spouting_whale",
                                            "orangutan",
                                            "monkey",
                                            "teddy_bear",
                                            "rhinoceros",
                                            "lizard",
                                            "llama",
                                            "worm",
                                            "squid",
                                            "telescope",
                                            "bread",
                                            "flatbread",
                                            "stuffed_flatbread",
                                            "sandwich",
                                            "tomato",
                                            "tangerine",
                                            "cherries",
                                            "pie",
                                            "bird",
                                            "eagle",
                                            "duck",
                                            "swan",
                                            "peacock",
                                            "raccoon",
                                            "beetle",
                                            "bug",
                                            "rat",
                                            "mouse",
                                            "chipmunk",
                                            "playground_slide",
                                            "boar",
                                            "kangaroo",
                                            "badger",
                                            "gloves",
                                            "cucumber",
                                            "hot_pepper",
                                            "roasted_sweet_potato",
                                            "keycap_ten",
                                            "tram_car",
                                            "tram",
                                            "train",
                                            "light_rail",
                                            "metro",
                                            "railway_car",
                                            "high-speed_train",
                                            "trumpet",
                                            "postal_horn",
                                            "hamsa",
                                            "t-rex",
                                            "sauropod",
                                            "dragon",
                                            "level_slider",
                                            "badminton_racquet_and_shuttlecock",
                                            "tennis_racquet_and_ball",
                                            "monorail",
                                            "suspension_railway",
                                            "mountain_railway",
                                            "steam_locomotive",
                                            "station",
                                            "fire_engine",
                                            "shallow_pan_of_food",
                                            "deer",
                                            "ox",
                                            "cow",
                                            "goat",
                                            "scooter"};
  return kNames;
}

/// Light and grain that a whole scene shares.
struct Mood {
  double light_angle, light_strength, exposure, grain;
  std::array<double, 3> tint;
};

Mood random_mood(Rng& rng) {
  Mood mood{rng.uniform(0, 360), rng.uniform(0, 0.22), rng.uniform(0.78, 1.12), rng.uniform(0, 5), {}};
  const double warmth = 0.05 * rng.normal(), green = 0.02 * rng.normal();
  mood.tint = {1 + warmth, 1 + green, 1 - warmth};
  return mood;
}

Look random_look(double size, const Mood& mood, Rng& rng) {
  Look look;
  look.size = size;
  look.angle = rng.chance(0.5) ? 8 * rng.normal() : rng.uniform(-45, 45);
  look.aspect = std::exp(0.14 * rng.normal());
  look.shear = 0.1 * rng.normal();
  look.mirrored = rng.chance(0.5);
  look.cast = rng.chance(0.45) ? 0 : static_cast<int>(rng.range(1, kCasts.size()));
  look.cast_strength = rng.uniform(0.5, 1);
  look.brightness = rng.uniform(0.85, 1.1);
  look.contrast = rng.uniform(0.8, 1.12);
  look.light_angle = mood.light_angle + 15 * rng.normal();
  look.light_strength = std::max(0.0, mood.light_strength + 0.04 * rng.normal());
  return look;
}

/// A thing drawn on a canvas of its own, cropped to what is not transparent.
struct Cutout {
  Image rgba;
  std::int64_t pixels = 0;  // with alpha of at least 128: what belongs to the object
};

Cutout cut_out(const Image& sprite, Look look) {
  const int canvas = static_cast<int>(std::ceil(1.7 * look.size)) + 2;  // a turned, stretched and sheared cell fits
  look.centre_x = look.centre_y = 0.5 * canvas;
  const Image drawn = draw(sprite, look, canvas, canvas);
  int left = canvas, top = canvas, right = 0, bottom = 0;
  Cutout out;
  for (int y = 0; y < canvas; ++y)
    for (int x = 0; x < canvas; ++x) {
      const int alpha = drawn.at(y, x)[3];
      out.pixels += alpha >= 128;
      if (alpha == 0) continue;
      left = std::min(left, x);
      right = std::max(right, x + 1);
      top = std::min(top, y);
      bottom = std::max(bottom, y + 1);
    }
  if (right > left) out.rgba = image::crop(drawn, left, top, right - left, bottom - top);
  return out;
}

/// The scene while it is being composed: which thing owns each pixel, and how much of each is left.
class Stage {
 public:
  explicit Stage(int size) : size_(size), owner_(static_cast<std::size_t>(size) * static_cast<std::size_t>(size), -1) {}

  /// Puts the cutout's upper left corner to (x, y) if it and all things below keep kLeastVisible.
  bool try_place(const Cutout& cutout, int x, int y) {
    std::int64_t inside = 0;
    std::vector<std::int64_t> covered(things_.size(), 0);
    each_pixel(cutout, x, y, [&](std::size_t at) {
      ++inside;
      if (owner_[at] >= 0) ++covered[static_cast<std::size_t>(owner_[at])];
    });
    const auto enough = [](std::int64_t left, std::int64_t whole) {
      return static_cast<double>(left) >= kLeastVisible * static_cast<double>(whole);
    };
    if (inside < kLeastPixels || !enough(inside, cutout.pixels)) return false;
    for (std::size_t i = 0; i < things_.size(); ++i) {
      const std::int64_t left = things_[i].visible - covered[i];
      if (covered[i] > 0 && (left < kLeastPixels || !enough(left, things_[i].whole))) return false;
    }
    for (std::size_t i = 0; i < things_.size(); ++i) things_[i].visible -= covered[i];
    const int id = static_cast<int>(things_.size());
    each_pixel(cutout, x, y, [&](std::size_t at) { owner_[at] = id; });
    things_.push_back({inside, cutout.pixels});
    return true;
  }

  Image mask_of(int id) const {
    Image mask(size_, size_, 1);
    for (std::size_t i = 0; i < owner_.size(); ++i) mask.pixels[i] = owner_[i] == id ? 255 : 0;
    return mask;
  }

 private:
  static constexpr std::int64_t kLeastPixels = 40;
  struct Thing {
    std::int64_t visible, whole;
  };

  template <class Use>
  void each_pixel(const Cutout& cutout, int x, int y, const Use& use) const {
    for (int row = std::max(0, -y); row < std::min(cutout.rgba.height, size_ - y); ++row)
      for (int column = std::max(0, -x); column < std::min(cutout.rgba.width, size_ - x); ++column)
        if (cutout.rgba.at(row, column)[3] >= 128)
          use(static_cast<std::size_t>(y + row) * static_cast<std::size_t>(size_) +
              static_cast<std::size_t>(x + column));
  }

  int size_;
  std::vector<int> owner_;
  std::vector<Thing> things_;
};

void blend_at(Image& scene, const Image& rgba, int x, int y) {
  for (int row = std::max(0, -y); row < std::min(rgba.height, scene.height - y); ++row)
    for (int column = std::max(0, -x); column < std::min(rgba.width, scene.width - x); ++column) {
      const std::uint8_t* from = rgba.at(row, column);
      std::uint8_t* to = scene.at(y + row, x + column);
      for (int k = 0; k < 3; ++k)
        to[k] = static_cast<std::uint8_t>((to[k] * (255 - from[3]) + from[k] * from[3] + 127) / 255);
    }
}

/// Finds a place for one thing, smaller from try to try. Whether it found one.
bool place(Stage& stage, Image& scene, const Image& sprite, double size, const Mood& mood, Rng& rng) {
  constexpr int kRounds = 8, kTries = 12;
  const double least = 18.0 * scene.width / 128;
  const Look look = random_look(size, mood, rng);
  for (int round = 0; round < kRounds; ++round) {
    Look smaller = look;
    smaller.size = std::max(least, size * std::pow(0.85, round));
    const Cutout cutout = cut_out(sprite, smaller);
    if (cutout.rgba.empty()) return false;
    for (int t = 0; t < kTries; ++t) {
      // Centres reach close to the border, so that some things are cut by the frame.
      const double margin = 0.22 * smaller.size;
      const int x = static_cast<int>(rng.uniform(margin, scene.width - margin)) - cutout.rgba.width / 2;
      const int y = static_cast<int>(rng.uniform(margin, scene.height - margin)) - cutout.rgba.height / 2;
      if (!stage.try_place(cutout, x, y)) continue;
      blend_at(scene, cutout.rgba, x, y);
      return true;
    }
  }
  return false;
}

void apply_mood(Image& scene, const Mood& mood, Rng& rng) {
  for (std::size_t i = 0; i < scene.pixels.size(); i += 3) {
    const double noise = mood.grain * (rng.uniform() + rng.uniform() - 1);
    for (std::size_t k = 0; k < 3; ++k)
      scene.pixels[i + k] =
          static_cast<std::uint8_t>(std::clamp(scene.pixels[i + k] * mood.exposure * mood.tint[k] + noise, 0.0, 255.0));
  }
}

SceneObject annotate(std::int32_t category_id, const Image& mask) {
  SceneObject object;
  object.category_id = category_id;
  object.polygons = outlines(mask);
  const mask::Rle rle = mask::from_polygons(object.polygons, mask.height, mask.width);
  object.area = static_cast<double>(mask::area(rle));
  object.box = mask::bounding_box(rle);
  return object;
}

}  // namespace

std::vector<std::size_t> distractor_sprites(const World& world) {
  std::vector<std::size_t> out;
  for (std::size_t i : world.sprites_of(Role::Other))
    if (!lookalikes().contains(world.sprites()[i].name)) out.push_back(i);
  return out;
}

World World::of_others() const {
  constexpr std::int32_t kFirstId = 2001;
  World world;
  for (std::size_t i : distractor_sprites(*this)) {
    Sprite sprite = sprites_[i];
    const auto id = static_cast<std::int32_t>(kFirstId + static_cast<std::int32_t>(world.sprites_.size()));
    sprite.role = Role::Eval;
    sprite.category_id = id;
    world.categories_.push_back({id, sprite.name, sprite.name, "f", false, {world.sprites_.size()}});
    world.sprites_.push_back(std::move(sprite));
  }
  return world;
}

std::vector<std::vector<double>> outlines(const Image& mask) {
  DIVERGEN_CHECK(mask.channels == 1);
  // Contours run through pixel centres and would lose the rim. On a mask of twice the size they run a quarter of a
  // pixel inside each pixel's edge, with every centre of the original inside.
  Image twice(2 * mask.height, 2 * mask.width, 1);
  for (int y = 0; y < twice.height; ++y)
    for (int x = 0; x < twice.width; ++x) *twice.at(y, x) = *mask.at(y / 2, x / 2) != 0 ? 255 : 0;
  std::vector<std::vector<double>> out;
  for (std::vector<double>& contour : image::trace_contours(twice)) {
    if (contour.size() < 6) continue;  // a polygon has three corners; LVIS readers refuse less
    for (double& value : contour) value = 0.5 * value + 0.25;
    out.push_back(std::move(contour));
  }
  return out;
}

Scene compose_scene(const World& world, std::span<const std::int32_t> wanted, int size, Rng& rng) {
  static constexpr double kDistractorChances[] = {0.35, 0.7, 0.9};  // of at most 0, 1, 2
  Scene scene;
  scene.rgb = textured_background(size, rng);
  const Mood mood = random_mood(rng);
  const std::vector<std::size_t> others = distractor_sprites(world);

  struct Actor {
    std::int32_t category_id;  // 0: a distractor
    std::size_t sprite;
  };
  std::vector<Actor> actors;
  for (std::int32_t id : wanted) {
    const auto& sprites = world.category(id).sprites;
    actors.push_back({id, sprites[rng.below(sprites.size())]});
  }
  const double draw_count = rng.uniform();
  for (double chance : kDistractorChances)
    if (draw_count >= chance && !others.empty()) actors.push_back({0, others[rng.below(others.size())]});
  rng.shuffle(actors);

  const double unit = size / 128.0, largest = actors.size() > 4 ? 54 : 70;
  Stage stage(size);
  std::vector<std::int32_t> placed;
  for (const Actor& actor : actors) {
    const double side = unit * std::exp(rng.uniform(std::log(21.0), std::log(largest)));
    if (place(stage, scene.rgb, world.sprites()[actor.sprite].picture, side, mood, rng))
      placed.push_back(actor.category_id);
  }
  apply_mood(scene.rgb, mood, rng);
  for (std::size_t i = 0; i < placed.size(); ++i)
    if (placed[i] != 0) scene.objects.push_back(annotate(placed[i], stage.mask_of(static_cast<int>(i))));
  return scene;
}

}  // namespace divergen::miniworld
