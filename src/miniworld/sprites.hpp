#pragma once
// The things of the mini world: a sheet of sprites, and how one is drawn with a given look.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "base/rng.hpp"
#include "image/image.hpp"

namespace divergen::miniworld {

enum class Role { Eval, Extra, Other };

struct Sprite {
  image::Image picture;  // square RGBA, tight and centred
  std::string name;      // category name (underscored), or the emoji's name for Other
  Role role = Role::Other;
  std::int32_t category_id = 0;  // as in the metadata; 0 for Other
};

struct Category {
  std::int32_t id = 0;
  std::string name, definition, frequency;  // frequency "r", "c", "f" as LVIS says
  bool is_extra = false;
  std::vector<std::size_t> sprites;  // indices of its looks
};

/// Colour casts and backgrounds that captions can name; index 0 is the natural one (no word in the caption).
inline constexpr std::array<const char*, 7> kCasts{"", "reddish", "bluish", "greenish", "golden", "dark", "pale"};
inline constexpr std::array<const char*, 6> kBackgrounds{"white", "pale blue", "pale green", "pink", "beige", "grey"};

/// How a sprite is drawn. Angles in degrees, counter-clockwise on screen; sizes in pixels of the canvas.
struct Look {
  double centre_x = 0, centre_y = 0;
  double size = 0;  // side of the sprite's cell
  double angle = 0;
  double aspect = 1;  // stretches width, shrinks height by its root
  double shear = 0;
  bool mirrored = false;
  int cast = 0;              // index into kCasts
  double cast_strength = 0;  // 0..1
  double brightness = 1, contrast = 1;
  double light_angle = 0, light_strength = 0;  // a linear gradient of brightness across the object
};

class World {
 public:
  World() = default;
  /// Reads sprites/sprites.{json,png} and categories.json of `folder`. Throws Error(Io | Data).
  explicit World(const Path& folder);

  /// Another world of the same sheet, that shares nothing with this one's categories: each sprite of Role::Other that
  /// looks like none of them is a frequent category of its own (ids from 2001 on), and nothing else is left. What a
  /// detector learns its first features from.
  World of_others() const;

  const std::vector<Sprite>& sprites() const { return sprites_; }
  const std::vector<Category>& categories() const { return categories_; }  // by id
  const Category& category(std::int32_t id) const;
  std::vector<std::size_t> sprites_of(Role role) const;

 private:
  std::vector<Sprite> sprites_;
  std::vector<Category> categories_;
};

/// RGBA canvas of the given size with the sprite drawn on it, antialiased (2 × 2 supersampling), transparent elsewhere.
image::Image draw(const image::Image& sprite, const Look& look, int height, int width);

/// dst ← src over dst. Same size; dst RGB, src RGBA.
void blend_over(image::Image& dst, const image::Image& src);

}  // namespace divergen::miniworld
