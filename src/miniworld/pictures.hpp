#pragma once
// Pictures of single objects with captions: what the text-to-image models and CLIP of the mini world learn from.

#include "miniworld/sprites.hpp"

namespace divergen::miniworld {

/// What a caption can say about a picture.
struct Description {
  bool is_template = true;  // the manual template; otherwise the descriptive grammar
  int cast = 0;             // index into kCasts
  int background = 0;       // index into kBackgrounds
  int tilt = 0;             // 0 upright, 1 to the left, 2 to the right
  int opener = 0;           // index of the descriptive opening words
};
constexpr int kOpeners = 5;

struct Picture {
  image::Image rgb;
  image::Image mask;  // 0..255, the object's coverage
  std::string caption;
  Description description;
  std::size_t sprite = 0;
};

/// "a photo of a single {name}, {definition}, in a white background", or for example
/// "an illustration of a reddish {name} tilted to the left, in a pale blue background".
std::string caption_of(const std::string& name, const std::string& definition, const Description& description);

/// Draws what a caption may say: half templates, half descriptive.
Description random_description(Rng& rng);

/// A picture of `sprite` that the description fits; everything that it leaves open is drawn from `rng`. The object
/// covers 55 to 90 % of the frame's side and leaves the corners to the background.
Picture make_picture(const World& world, std::size_t sprite, const Description& description, int size, Rng& rng);

/// The distinct descriptive captions of a category used as prompts: `count` lines, a pure function of `seed`.
std::vector<std::string> descriptive_prompts(const Category& category, int count, std::uint64_t seed);

}  // namespace divergen::miniworld
