#pragma once
// Instances with random pictures for the tests of the library.

#include <string>
#include <vector>

#include "base/rng.hpp"
#include "image/image.hpp"
#include "store/library.hpp"

namespace divergen::test {

inline store::LibraryTables tables() {
  store::LibraryTables out;
  out.categories = {{3, "aardvark", "r", false}, {7, "banjo", "c", false}, {1300, "comet", "f", true}};
  out.generators = {{"sd", "stable_diffusion", "dpmpp", "ab12", 50, 7.5},
                    {"if", "deepfloyd_if", "ddpm", "cd34", 100, 7}};
  out.prompts = {"a photo of an aardvark", "a photo of a banjo", "a banjo, \"worn\"\n", "a comet"};
  out.annotator_hash = "aa";
  out.clip_hash = "bb";
  out.config_hash = "cc";
  out.software = "divergen test";
  return out;
}

inline std::string picture(Rng& rng, int width, int height) {
  image::Image rgba(height, width, 4);
  for (auto& value : rgba.pixels) value = static_cast<std::uint8_t>(rng.below(256));
  return image::encode_png(rgba);
}

inline std::vector<store::Instance> instances(int count) {
  Rng rng(5);
  std::vector<store::Instance> out;
  const std::int32_t categories[] = {3, 7, 1300};
  for (int i = 0; i < count; ++i) {
    store::Instance one;
    one.item_id = rng.next64();
    one.seed = rng.next64();
    const int which = i % 3;
    one.category_id = categories[which];
    one.generator = i % 2;
    one.prompt = which == 0 ? 0 : which == 1 ? 1 + i % 2 : 3;
    one.sample = i;
    one.width = 5 + static_cast<std::int32_t>(rng.below(30));
    one.height = 4 + static_cast<std::int32_t>(rng.below(30));
    one.box_x = i;
    one.box_y = 2 * i;
    one.source_width = one.source_height = 512;
    one.area = 17 + i;
    one.similarity = 0.6F + 0.001F * static_cast<float>(i);
    one.clip_score = 21.5F;
    one.flags = i % 4 == 0 ? store::kTouchesBorder : 0;
    one.png = picture(rng, one.width, one.height);
    out.push_back(std::move(one));
  }
  return out;
}

}  // namespace divergen::test
