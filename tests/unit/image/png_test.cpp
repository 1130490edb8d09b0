#include "image/png.hpp"

#include <gtest/gtest.h>
#include <libdeflate.h>

#include "base/rng.hpp"

namespace divergen::image {
namespace {

constexpr std::int64_t kMost = 1 << 26;

/// Smooth, with noise and flat parts, so that every filter is the best of some row.
Image picture(int height, int width, int channels, std::uint64_t seed) {
  Rng rng(seed);
  Image out(height, width, channels);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c) {
        const int smooth = x * (c + 1) + y * 3 + static_cast<int>(rng.below(y % 3 == 0 ? 60 : 4));
        out.at(y, x)[c] = static_cast<std::uint8_t>(y % 7 == 6 ? 9 : smooth);
      }
  return out;
}

/// With a chunk that png::decode() leaves to the general decoder, libpng.
std::string with_exif(const std::string& png) {
  const std::string body = std::string("eXIf") + std::string("MM\0*\0\0\0\x08\0\0\0\0\0\0", 14);
  std::string chunk("\0\0\0\x0e", 4);
  chunk += body;
  const std::uint32_t crc = libdeflate_crc32(0, body.data(), body.size());
  for (int i = 3; i >= 0; --i) chunk += static_cast<char>(crc >> (8 * i));
  return png.substr(0, 33) + chunk + png.substr(33);
}

}  // namespace

TEST(Png, LibpngReadsWhatIsWrittenAndSoDoesTheFastReader) {
  for (const int channels : {1, 3, 4})
    for (const int size : {1, 2, 3, 17, 64, 129})
      for (const int level : {0, 1, 5, 9}) {
        const Image image = picture(size, 2 * size + 1, channels, static_cast<std::uint64_t>(size));
        const std::string bytes = png::encode(image, level);
        EXPECT_EQ(png::decode(bytes, kMost), image);
        ASSERT_FALSE(png::decode(with_exif(bytes), kMost).has_value());
        const Decoded slow = decode(with_exif(bytes), Channels::AsStored);
        ASSERT_TRUE(slow.image) << slow.problem;
        EXPECT_EQ(*slow.image, image) << channels << " channels, " << size << " px, level " << level;
      }
}

TEST(Png, BothReadersGiveTheSameChannels) {
  for (const int channels : {1, 3, 4}) {
    const std::string bytes = png::encode(picture(20, 31, channels, 3), 5);
    for (const Channels wanted : {Channels::AsStored, Channels::Rgb, Channels::Rgba, Channels::Grey})
      EXPECT_EQ(*decode(bytes, wanted).image, *decode(with_exif(bytes), wanted).image)
          << channels << " to " << static_cast<int>(wanted);
  }
}

TEST(Png, RefusesEveryDamage) {
  const std::string good = png::encode(picture(30, 20, 4, 1), 5);
  Rng rng(2);
  for (int n = 0; n < 2000; ++n) {
    std::string bytes = good;
    if (n % 5 == 0) {
      bytes.resize(rng.below(bytes.size()));
    } else {
      bytes[rng.below(bytes.size())] ^= static_cast<char>(1U << rng.below(8));
    }
    EXPECT_FALSE(png::decode(bytes, kMost).has_value()) << "a checksum covers every byte";
  }
  EXPECT_FALSE(png::decode(good, 599).has_value()) << "more pixels than allowed";
}

}  // namespace divergen::image
