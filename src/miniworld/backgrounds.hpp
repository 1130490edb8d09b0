#pragma once
// What lies behind the objects of a scene: textures drawn from families with continuous parameters, so that no two
// scenes share one.

#include "base/rng.hpp"
#include "image/image.hpp"

namespace divergen::miniworld {

/// A square RGB texture: gradient, stripes, checks, noise, blobs, waves, dots, cells, rings, grain or bricks in a
/// palette of three colours, under weak fine noise.
image::Image textured_background(int size, Rng& rng);

}  // namespace divergen::miniworld
