#pragma once
// Scenes of the mini world: several things before a textured background, with masks of what is visible of each.

#include <span>
#include <vector>

#include "miniworld/sprites.hpp"

namespace divergen::miniworld {

struct SceneObject {
  std::int32_t category_id = 0;
  std::vector<std::vector<double>> polygons;  // outlines of the visible parts, COCO's pixel coordinates
  std::array<double, 4> box{};                // x, y, width, height of the polygons' mask, px
  double area = 0;                            // px of the polygons' mask
};

struct Scene {
  image::Image rgb;
  std::vector<SceneObject> objects;  // from back to front
};

/// Least share of an object's own pixels that must be visible (in the frame, not covered) to be annotated.
inline constexpr double kLeastVisible = 0.35;

/// Composes a square scene that shows one object of each entry of `wanted` (category ids, repeats allowed), and up to
/// three distractors of Role::Other that look like no category and are not annotated. Objects are placed so that each
/// keeps kLeastVisible; one that finds no place even when shrunk is left out (does not happen up to six objects).
Scene compose_scene(const World& world, std::span<const std::int32_t> wanted, int size, Rng& rng);

/// Outlines of a mask (nonzero is inside) as polygons whose COCO mask is the mask itself, its holes filled.
std::vector<std::vector<double>> outlines(const image::Image& mask);

/// Sprites of Role::Other that cannot be mistaken for a category (no taxi beside the category car).
std::vector<std::size_t> distractor_sprites(const World& world);

}  // namespace divergen::miniworld
