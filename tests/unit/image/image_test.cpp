#include "image/image.hpp"

#include <gtest/gtest.h>

#include "base/rng.hpp"
#include "image/geometry.hpp"
#include "image/pil_resize.hpp"

namespace divergen::image {
namespace {

Image noise(int height, int width, int channels, std::uint64_t seed = 1) {
  Image out(height, width, channels);
  Rng rng(seed);
  for (auto& value : out.pixels) value = static_cast<std::uint8_t>(rng.below(256));
  return out;
}

}  // namespace

TEST(Codec, PngIsLosslessForEveryChannelCount) {
  for (const int channels : {1, 3, 4}) {
    const Image image = noise(13, 7, channels);

    const Decoded decoded = decode(encode_png(image), Channels::AsStored);

    ASSERT_TRUE(decoded.image) << decoded.problem;
    EXPECT_EQ(*decoded.image, image);
  }
}

TEST(Codec, SaysWhyBytesAreNoPicture) {
  const std::string png = encode_png(noise(64, 64, 3));

  EXPECT_FALSE(decode("hello").image);
  EXPECT_FALSE(decode("").image);
  EXPECT_FALSE(decode(png.substr(0, 20)).image);
  EXPECT_EQ(decode("hello").problem, "not a PNG or JPEG file");
}

TEST(Codec, RefusesADecompressionBombBeforeDecoding) {
  std::string png = encode_png(noise(8, 8, 3));
  png[16] = png[20] = 0;
  png[18] = png[22] = '\xff';  // 65,288 pixels wide and high
  png[17] = png[21] = 0;

  EXPECT_NE(decode(png).problem.find("more than the limit"), std::string::npos);
}

TEST(Codec, SurvivesRandomDamage) {
  const std::string png = encode_png(noise(32, 32, 4)), jpeg = encode_jpeg(noise(32, 32, 3), 90);
  Rng rng(5);

  for (int i = 0; i < 300; ++i) {
    std::string bytes = i % 2 == 0 ? png : jpeg;
    for (int k = 0; k < 3; ++k) bytes[rng.below(bytes.size())] = static_cast<char>(rng.below(256));
    const Decoded decoded = decode(bytes, Channels::Rgb);
    EXPECT_TRUE(decoded.image.has_value() || !decoded.problem.empty());
  }
}

TEST(PilResize, KeepsConstantsAndSizes) {
  const Image flat(20, 30, 3, 77);

  const Image small = pil_resize(flat, 7, 11, Filter::Bicubic);

  EXPECT_EQ(small, Image(7, 11, 3, 77));
}

TEST(Geometry, LargestComponentFillsHolesAndPrefersTheLaterOfEquals) {
  Image mask(20, 40, 1);
  for (int y = 2; y < 8; ++y)
    for (int x = 2; x < 8; ++x) *mask.at(y, x) = *mask.at(y + 8, x + 20) = 255;
  *mask.at(12, 24) = 0;  // a hole in the later one

  const auto found = largest_component(mask, 128);

  ASSERT_TRUE(found);
  EXPECT_EQ(found->x, 22);
  EXPECT_EQ(found->y, 10);
  EXPECT_EQ(*found->mask.at(12, 24), 255);
  EXPECT_EQ(*found->mask.at(3, 3), 0);
}

TEST(pil_resize, AWindowIsAPartOfTheWhole) {
  Rng rng(11);
  for (int round = 0; round < 200; ++round) {
    const auto side = [&](int most) { return static_cast<int>(rng.range(1, most)); };
    Image image(side(60), side(60), side(5));
    for (auto& value : image.pixels) value = static_cast<std::uint8_t>(rng.next());
    const int height = round % 7 == 0 ? image.height : side(90), width = round % 5 == 0 ? image.width : side(90);
    const int y = static_cast<int>(rng.range(0, height)), x = static_cast<int>(rng.range(0, width));
    const int rows = static_cast<int>(rng.range(1, height - y + 1)),
              columns = static_cast<int>(rng.range(1, width - x + 1));
    for (const Filter filter : {Filter::Nearest, Filter::Bilinear, Filter::Bicubic})
      EXPECT_EQ(pil_resize_window(image, height, width, filter, y, x, rows, columns),
                crop(pil_resize(image, height, width, filter), x, y, columns, rows))
          << image.height << "x" << image.width << " to " << height << "x" << width << " at " << y << ", " << x;
  }
}

}  // namespace divergen::image
