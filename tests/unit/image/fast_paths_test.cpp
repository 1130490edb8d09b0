// Quick ways against plain ones: resizing with vectors against one pixel at a time, JPEG straight into RGB against the
// general decoder, mirrored rows.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <jpeglib.h>

#include "base/rng.hpp"
#include "image/jpeg.hpp"
#include "image/pil_resize.hpp"

namespace divergen::image {
namespace {

Image noise(int height, int width, int channels, std::uint64_t seed) {
  Image out(height, width, channels);
  Rng rng(seed);
  for (auto& value : out.pixels) value = static_cast<std::uint8_t>(rng.next());
  return out;
}

/// A picture that JPEG does not turn into mud.
Image smooth(int height, int width, int channels, std::uint64_t seed) {
  Image out(height, width, channels);
  Rng rng(seed);
  const double a = rng.uniform(0.02, 0.3), b = rng.uniform(0.02, 0.3);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c)
        out.at(y, x)[c] = static_cast<std::uint8_t>(120 + 70 * std::sin(a * x + c) + 40 * std::cos(b * y) +
                                                    static_cast<double>(rng.next() & 15));
  return out;
}

Image transposed(const Image& image) {
  Image out(image.width, image.height, image.channels);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) std::copy_n(image.at(y, x), image.channels, out.at(x, y));
  return out;
}

/// Pillow's bilinear filter along the rows, sample by sample (reference/generation.md §7).
Image plain_rows(const Image& image, int width) {
  if (image.width == width) return image;
  Image out(image.height, width, image.channels);
  const double scale = static_cast<double>(image.width) / width, stretch = std::max(scale, 1.0);
  for (int x = 0; x < width; ++x) {
    const double centre = (x + 0.5) * scale;
    const int low = std::max(static_cast<int>(centre - stretch + 0.5), 0);
    const int high = std::min(static_cast<int>(centre + stretch + 0.5), image.width);
    std::vector<double> weights;
    double sum = 0;
    for (int i = low; i < high; ++i) {
      weights.push_back(std::max(0.0, 1 - std::abs((i - centre + 0.5) * (1.0 / stretch))));
      sum += weights.back();
    }
    for (int y = 0; y < image.height; ++y)
      for (int c = 0; c < image.channels; ++c) {
        std::int64_t value = 1 << 21;
        for (int i = low; i < high; ++i)
          value += static_cast<std::int64_t>(weights[static_cast<std::size_t>(i - low)] / sum * (1 << 22) + 0.5) *
                   image.at(y, i)[c];
        out.at(y, x)[c] = static_cast<std::uint8_t>(std::clamp<std::int64_t>(value >> 22, 0, 255));
      }
  }
  return out;
}

Image plain_flip(const Image& image) {
  Image out(image.height, image.width, image.channels);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      for (int c = 0; c < image.channels; ++c) out.at(y, image.width - 1 - x)[c] = image.at(y, x)[c];
  return out;
}

/// What encode_jpeg() does not choose.
struct JpegWay {
  int across = 2, down = 2;  // pixels of light for one of colour
  bool is_progressive = false;
  unsigned restart_rows = 0;
};

std::string jpeg_of(const Image& from, const JpegWay& way) {
  jpeg_compress_struct state;
  jpeg_error_mgr errors;
  state.err = jpeg_std_error(&errors);
  jpeg_create_compress(&state);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&state, &bytes, &size);
  state.image_width = static_cast<JDIMENSION>(from.width);
  state.image_height = static_cast<JDIMENSION>(from.height);
  state.input_components = from.channels;
  state.in_color_space = from.channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
  jpeg_set_defaults(&state);
  jpeg_set_quality(&state, 88, TRUE);
  if (from.channels == 3) {
    state.comp_info[0].h_samp_factor = way.across;
    state.comp_info[0].v_samp_factor = way.down;
  }
  if (way.is_progressive) jpeg_simple_progression(&state);
  state.restart_in_rows = static_cast<int>(way.restart_rows);
  jpeg_start_compress(&state, TRUE);
  while (state.next_scanline < state.image_height) {
    JSAMPROW row = const_cast<std::uint8_t*>(from.at(static_cast<int>(state.next_scanline), 0));
    jpeg_write_scanlines(&state, &row, 1);
  }
  jpeg_finish_compress(&state);
  jpeg_destroy_compress(&state);
  std::string out(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  return out;
}

/// A JPEG with an EXIF segment that says nothing: for the general decoder.
std::string with_exif(const std::string& bytes) {
  const std::string segment(
      "\xff\xe1\x00\x10"
      "Exif\0\0MM\0*\0\0\0\x08",
      18);
  return bytes.substr(0, 2) + segment + bytes.substr(2);
}

}  // namespace

TEST(fast_paths, ResizeEqualsOnePixelAtATime) {
  Rng rng(3);
  for (int round = 0; round < 120; ++round) {
    const int channels = 1 + round % 4;
    const Image from =
        noise(static_cast<int>(rng.range(1, 90)), static_cast<int>(rng.range(1, 90)), channels, rng.next());
    // Not so small that Pillow takes the columns first.
    const int height = std::max(static_cast<int>(rng.range(1, 200)), (from.height + 1) / 2);
    const int width = std::max(static_cast<int>(rng.range(1, 200)), (from.width + 1) / 2);
    const bool rows_first =
        height >= from.height || (width < from.width && 2 * height * from.width >= 3 * from.height * width);
    const Image across = rows_first ? plain_rows(from, width) : Image();
    Image expected;
    if (rows_first) expected = transposed(plain_rows(transposed(across), height));
    else expected = pil_resize(from, height, width, Filter::Bilinear);
    EXPECT_EQ(pil_resize(from, height, width, Filter::Bilinear), expected) << from.height << "x" << from.width;
    const int y = static_cast<int>(rng.below(static_cast<std::uint64_t>(height)));
    const int x = static_cast<int>(rng.below(static_cast<std::uint64_t>(width)));
    const int h = static_cast<int>(rng.range(1, height - y + 1)), w = static_cast<int>(rng.range(1, width - x + 1));
    const Image window = crop(expected, x, y, w, h);
    EXPECT_EQ(pil_resize_window(from, height, width, Filter::Bilinear, y, x, h, w), window);
    EXPECT_EQ(pil_resize_window(from, height, width, Filter::Bilinear, y, x, h, w, true), plain_flip(window));
  }
}

TEST(fast_paths, FlipMirrorsEveryPixel) {
  for (int channels = 1; channels <= 4; ++channels)
    for (const int width : {1, 2, 7, 64}) {
      const Image image = noise(5, width, channels, static_cast<std::uint64_t>(width));
      EXPECT_EQ(flip_horizontal(image), plain_flip(image));
    }
}

TEST(fast_paths, JpegEqualsTheGeneralDecoder) {
  for (int round = 0; round < 12; ++round) {
    const Image from =
        smooth(31 + 17 * round, 45 + 11 * round, round % 3 == 2 ? 1 : 3, static_cast<std::uint64_t>(round));
    const std::string bytes = encode_jpeg(from, 60 + 3 * round);
    ASSERT_TRUE(jpeg::decode(bytes, 1 << 20)) << "it was not taken by the quick way";
    ASSERT_FALSE(jpeg::decode(with_exif(bytes), 1 << 20));
    for (const Channels channels : {Channels::Rgb, Channels::Rgba, Channels::AsStored, Channels::Grey})
      for (const bool exif : {false, true}) {
        const Decoded quick = decode(bytes, channels, exif), general = decode(with_exif(bytes), channels, exif);
        ASSERT_TRUE(quick.image && general.image) << quick.problem << general.problem;
        EXPECT_EQ(*quick.image, *general.image) << round << ", " << static_cast<int>(channels) << exif;
      }
  }
}

TEST(fast_paths, ARegionOfAJpegIsWhatTheWholeOneHasThere) {
  Rng rng(11);
  const auto up_to = [&](int most) { return static_cast<int>(rng.below(static_cast<std::uint64_t>(most))); };
  int taken = 0;
  for (int round = 0; round < 300; ++round) {
    const int channels = round % 5 == 0 ? 1 : 3;
    const Image from = smooth(1 + up_to(90), 1 + up_to(120), channels, static_cast<std::uint64_t>(round));
    const JpegWay ways[] = {{}, {1, 1}, {2, 1}, {1, 2}, {2, 2, true}, {2, 2, false, 1}, {2, 1, true, 2}};
    const std::string bytes = jpeg_of(from, ways[static_cast<std::size_t>(round) % std::size(ways)]);
    const auto whole = decode(bytes).image;
    ASSERT_TRUE(whole);
    for (int trial = 0; trial < 8; ++trial) {
      const int x = up_to(from.width), y = up_to(from.height);
      const Region region{x, y, 1 + up_to(from.width - x), 1 + up_to(from.height - y)};
      const Image expected = crop(*whole, region.x, region.y, region.width, region.height);
      const Decoded part = decode_region(bytes, from.height, from.width, region);
      ASSERT_TRUE(part.image) << part.problem;
      ASSERT_EQ(*part.image, expected) << "round " << round << ": " << region.width << "x" << region.height << " at "
                                       << x << "," << y << " of " << from.width << "x" << from.height;
      taken += jpeg::decode_region(bytes, from.height, from.width, region).has_value();
    }
  }
  EXPECT_EQ(taken, 300 * 8) << "some were not taken by the quick way";
}

TEST(fast_paths, ARegionOfAnythingElseIsCutFromTheWhole) {
  const Image from = smooth(40, 60, 3, 3);
  const Region region{7, 9, 20, 11};
  const std::string jpg = encode_jpeg(from, 90);
  for (const std::string& bytes : {encode_png(from), with_exif(jpg), jpg.substr(0, jpg.size() - 2), jpg + "trailer"}) {
    EXPECT_FALSE(jpeg::decode_region(bytes, 40, 60, region));
    const auto whole = decode(bytes).image;
    const Decoded part = decode_region(bytes, 40, 60, region);
    ASSERT_EQ(part.image.has_value(), whole.has_value());
    if (whole) {
      EXPECT_EQ(*part.image, crop(*whole, 7, 9, 20, 11));
    }
  }
  const Decoded other = decode_region(jpg, 60, 40, region);
  EXPECT_FALSE(other.image);
  EXPECT_NE(other.problem.find("60x40"), std::string::npos) << other.problem;
  EXPECT_FALSE(decode_region("no picture", 40, 60, region).image);
}

TEST(fast_paths, ARegionOfADamagedJpegIsThatOfTheWholeOneOrTheWholeOneIsNone) {
  const Image from = smooth(64, 96, 3, 1);
  const std::string good = encode_jpeg(from, 90);
  const Region region{20, 24, 30, 16};
  Rng rng(12);
  for (int round = 0; round < 500; ++round) {
    std::string bytes = good;
    for (int i = 0; i < 3; ++i) bytes[rng.below(bytes.size())] = static_cast<char>(rng.next());
    const auto part = jpeg::decode_region(bytes, 64, 96, region);
    if (!part) continue;
    EXPECT_EQ(part->pixels.size(), 30u * 16u * static_cast<std::size_t>(part->channels));
    if (const auto whole = jpeg::decode(bytes, 1 << 20)) {
      EXPECT_EQ(*part, crop(*whole, 20, 24, 30, 16)) << round;
    }
  }
}

TEST(fast_paths, DamagedJpegIsForTheGeneralDecoder) {
  const std::string whole = encode_jpeg(smooth(60, 80, 3, 1), 90);
  EXPECT_FALSE(jpeg::decode(whole, 60 * 80 - 1));  // more pixels than allowed
  for (const std::size_t size : {std::size_t{2}, std::size_t{30}, whole.size() / 2, whole.size() - 3})
    EXPECT_FALSE(jpeg::decode(std::string_view(whole).substr(0, size), 1 << 20)) << size;
  Rng rng(4);
  for (int round = 0; round < 300; ++round) {  // no crash, whatever is in it
    std::string bytes = whole;
    for (int i = 0; i < 4; ++i) bytes[rng.below(bytes.size())] = static_cast<char>(rng.next());
    if (const auto image = jpeg::decode(bytes, 1 << 20)) {
      EXPECT_EQ(image->pixels.size(), static_cast<std::size_t>(image->height) * static_cast<std::size_t>(image->width) *
                                          static_cast<std::size_t>(image->channels));
    }
  }
}

}  // namespace divergen::image
