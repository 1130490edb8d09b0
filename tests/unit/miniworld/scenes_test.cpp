#include "miniworld/scenes.hpp"

#include <gtest/gtest.h>

#include "mask/rle.hpp"
#include "miniworld/backgrounds.hpp"

namespace divergen::miniworld {
namespace {

const World& world() {
  static const World instance(Path(DIVERGEN_SOURCE_DIR) / "data/mini");
  return instance;
}

TEST(Outlines, GiveBackTheMaskWithHolesFilled) {
  image::Image mask(40, 50, 1);
  // A ring, a single pixel, a diagonal of touching pixels, a bar at the picture's edge.
  for (int y = 0; y < 40; ++y)
    for (int x = 0; x < 50; ++x) {
      const int d = (x - 15) * (x - 15) + (y - 15) * (y - 15);
      if (d <= 100 && d >= 30) *mask.at(y, x) = 255;
    }
  *mask.at(3, 40) = 255;
  for (int k = 0; k < 6; ++k) *mask.at(20 + k, 35 + k) = 255;
  for (int x = 30; x < 50; ++x) *mask.at(39, x) = 255;

  image::Image filled = mask;
  for (int y = 0; y < 40; ++y)
    for (int x = 0; x < 50; ++x)
      if ((x - 15) * (x - 15) + (y - 15) * (y - 15) <= 100) *filled.at(y, x) = 255;

  const mask::Rle drawn = mask::from_polygons(outlines(mask), 40, 50);
  EXPECT_EQ(mask::decode(drawn).size(), filled.pixels.size());
  EXPECT_EQ(drawn, mask::encode(filled.pixels, 40, 50));
}

TEST(Outlines, OfNothingAreNone) { EXPECT_TRUE(outlines(image::Image(8, 8, 1)).empty()); }

TEST(Distractors, AreOtherThingsAndNoLookalikes) {
  const auto sprites = distractor_sprites(world());
  EXPECT_GT(sprites.size(), 200u);
  for (std::size_t i : sprites) {
    EXPECT_EQ(world().sprites()[i].role, Role::Other);
    EXPECT_NE(world().sprites()[i].name, "taxi");
    EXPECT_NE(world().sprites()[i].name, "guide_dog");
  }
}

TEST(Background, IsReproducibleAndDiffersBetweenSeeds) {
  Rng a(1), b(1), c(2);
  const image::Image first = textured_background(48, a);
  EXPECT_EQ(first, textured_background(48, b));
  EXPECT_NE(first, textured_background(48, c));
}

class Composed : public ::testing::TestWithParam<int> {};

TEST_P(Composed, ShowsWhatWasWantedWhereItSays) {
  std::vector<std::int32_t> wanted;
  for (int k = 0; k < GetParam(); ++k)
    wanted.push_back(
        world().categories()[static_cast<std::size_t>(7 * k + GetParam()) % world().categories().size()].id);
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Rng rng(seed);
    const Scene scene = compose_scene(world(), wanted, 128, rng);
    ASSERT_EQ(scene.rgb.height, 128);
    ASSERT_EQ(scene.rgb.channels, 3);
    ASSERT_EQ(scene.objects.size(), wanted.size()) << "seed " << seed;
    std::vector<std::int32_t> shown;
    std::vector<mask::Rle> masks;
    for (const SceneObject& object : scene.objects) {
      shown.push_back(object.category_id);
      ASSERT_FALSE(object.polygons.empty());
      for (const auto& part : object.polygons) EXPECT_GE(part.size(), 6u);
      masks.push_back(mask::from_polygons(object.polygons, 128, 128));
      EXPECT_EQ(object.area, static_cast<double>(mask::area(masks.back())));
      EXPECT_EQ(object.box, mask::bounding_box(masks.back()));
      EXPECT_GE(object.area, 40);
      EXPECT_GE(object.box[0], 0);
      EXPECT_LE(object.box[0] + object.box[2], 128);
      EXPECT_LE(object.box[1] + object.box[3], 128);
    }
    std::sort(shown.begin(), shown.end());
    std::vector<std::int32_t> expected = wanted;
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(shown, expected);
    Rng again(seed);
    EXPECT_EQ(scene.rgb, compose_scene(world(), wanted, 128, again).rgb);
  }
}

INSTANTIATE_TEST_SUITE_P(Counts, Composed, ::testing::Values(0, 1, 3, 6));

}  // namespace
}  // namespace divergen::miniworld
