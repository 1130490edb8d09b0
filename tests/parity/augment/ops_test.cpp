// Single operations against OpenCV's results.

#include "cases.hpp"
#include "image/geometry.hpp"
#include "stages/augment/blend.hpp"

namespace divergen::stages::test {

TEST(ops, ResizeLinear) {
  const Part part("ops");
  const auto& cases = part.json.at("resize");
  ASSERT_FALSE(cases.empty());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const image::Image expected = part.picture(cat("resize.", i, ".out"));
    const image::Image ours =
        image::resize_linear(part.picture(cat("resize.", i, ".in")), expected.height, expected.width);
    EXPECT_EQ(difference(ours, expected).count, 0U) << i;
  }
}

TEST(ops, BoxBlur) {
  const Part part("ops");
  const image::Image image = part.picture("blur10.in");
  EXPECT_EQ(difference(image::box_blur(image, 10), part.picture("blur10.out")).count, 0U);
}

/// One channel of the same picture.
TEST(ops, BoxBlurOfGrey) {
  const Part part("ops");
  const image::Image image = part.picture("blur10.in");
  image::Image grey(image.height, image.width, 1);
  for (std::size_t i = 0; i < grey.pixels.size(); ++i)
    grey.pixels[i] = image.pixels[i * static_cast<std::size_t>(image.channels)];
  EXPECT_EQ(difference(image::box_blur(grey, 10), part.picture("blur10_gray.out")).count, 0U);
}

/// The weights of the blurred mask show when white is painted on black, and black on white.
TEST(ops, BlurredMask) {
  const Part part("ops");
  const auto values = part.values<float>("blur5.in"), expected = part.values<float>("blur5.out");
  const int height = static_cast<int>(part.shape("blur5.in")[0]), width = static_cast<int>(part.shape("blur5.in")[1]);
  image::Image bits(height, width, 1);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_TRUE(values[i] == 0 || values[i] == 1);
    bits.pixels[i] = values[i] == 1;
  }
  image::Image canvas(height, width, 3);
  blend(canvas, image::Image(height, width, 3, 255), 0, 0, box_mask(bits), Blend::Gaussian);
  for (std::size_t i = 0; i < expected.size(); ++i)
    ASSERT_EQ(canvas.pixels[3 * i], static_cast<std::uint8_t>(255.0F * expected[i])) << i;
}

}  // namespace divergen::stages::test
