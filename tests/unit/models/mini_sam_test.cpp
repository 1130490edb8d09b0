// The trained miniature SAM, prompted as the annotate stage does, against shapes that are known exactly.

#include <gtest/gtest.h>

#include "base/rng.hpp"
#include "miniworld/pictures.hpp"
#include "models/annotator.hpp"

namespace divergen::models {
namespace {

double overlap(const image::Image& mask, const image::Image& truth) {
  std::int64_t both = 0, either = 0;
  for (std::size_t i = 0; i < mask.pixels.size(); ++i) {
    const bool a = mask.pixels[i] > 127, b = truth.pixels[i] > 127;
    both += a && b;
    either += a || b;
  }
  return either == 0 ? 0 : static_cast<double>(both) / static_cast<double>(either);
}

TEST(MiniSam, CutsOutKnownShapes) {
  constexpr std::size_t kPictures = 48;
  const Path data = Path(DIVERGEN_SOURCE_DIR) / "data/mini";
  const miniworld::World world(data);
  std::vector<image::Image> pictures, truth;
  for (std::size_t i = 0; i < kPictures; ++i) {
    Rng rng(derive_seed(2026, "known shapes", {i}));
    const auto& category = world.categories()[i % world.categories().size()];
    auto picture =
        miniworld::make_picture(world, category.sprites.front(), miniworld::random_description(rng), 64, rng);
    pictures.push_back(std::move(picture.rgb));
    truth.push_back(std::move(picture.mask));
  }
  config::AnnotatorSettings settings;
  settings.weights = data / "models/sam/model.safetensors";
  const auto masks = make_annotator(settings)->annotate(pictures, {});
  ASSERT_EQ(masks.size(), kPictures);
  double sum = 0;
  for (std::size_t i = 0; i < kPictures; ++i) sum += overlap(masks[i].mask, truth[i]);
  const double mean = sum / static_cast<double>(kPictures);
  RecordProperty("mean_iou", std::to_string(mean));
  std::printf("mean IoU of %zu masks with the known shapes: %.3f\n", kPictures, mean);
  EXPECT_GT(mean, 0.85);
}

}  // namespace
}  // namespace divergen::models
