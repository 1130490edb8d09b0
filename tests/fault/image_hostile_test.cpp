// Mutated pictures and decompression bombs (reference/reliability.md §6, image_hostile): no crash, a reason for each
// refusal, bounded memory.

#include <gtest/gtest.h>
#include <libdeflate.h>
#include <sys/resource.h>

#include <memory>

#include "base/rng.hpp"
#include "image/image.hpp"
#include "support/full.hpp"

namespace divergen::image {
namespace {

Image picture(int height, int width, int channels) {
  Image out(height, width, channels);
  for (std::size_t i = 0; i < out.pixels.size(); ++i) out.pixels[i] = static_cast<std::uint8_t>(i * i / 97 + i % 13);
  return out;
}

void put32(std::string& out, std::uint32_t value) {
  for (int i = 3; i >= 0; --i) out += static_cast<char>(value >> (8 * i));
}

void put_chunk(std::string& out, const std::string& type, const std::string& data) {
  put32(out, static_cast<std::uint32_t>(data.size()));
  const std::string body = type + data;
  out += body;
  put32(out, libdeflate_crc32(0, body.data(), body.size()));
}

/// A PNG whose header claims this size, with so many rows of zeros as data, all checksums right.
std::string bomb(std::uint32_t width, std::uint32_t height, std::size_t bytes) {
  std::string header;
  put32(header, width);
  put32(header, height);
  header += std::string("\x08\x06\0\0\0", 5);
  const std::string zeros(bytes, '\0');
  std::unique_ptr<libdeflate_compressor, void (*)(libdeflate_compressor*)> compressor(libdeflate_alloc_compressor(9),
                                                                                      &libdeflate_free_compressor);
  std::string data(libdeflate_zlib_compress_bound(compressor.get(), bytes), '\0');
  data.resize(libdeflate_zlib_compress(compressor.get(), zeros.data(), bytes, data.data(), data.size()));
  std::string out("\x89PNG\r\n\x1a\n", 8);
  put_chunk(out, "IHDR", header);
  put_chunk(out, "IDAT", data);
  put_chunk(out, "IEND", "");
  return out;
}

/// The frame of a WebP with random contents: a format that this program does not read.
std::string webp(Rng& rng) {
  std::string out = "RIFF";
  for (int i = 0; i < 4; ++i) out += static_cast<char>(rng.below(256));
  out += "WEBPVP8L";
  for (int i = 0; i < 200; ++i) out += static_cast<char>(rng.below(256));
  return out;
}

std::string mutated(std::string bytes, Rng& rng) {
  switch (rng.below(5)) {
    case 0:
      return bytes.substr(0, rng.below(bytes.size()));
    case 1:
      bytes.insert(rng.below(bytes.size()), std::string(1 + rng.below(40), static_cast<char>(rng.below(256))));
      return bytes;
    case 2:
      bytes.erase(rng.below(bytes.size()), 1 + rng.below(20));
      return bytes;
    case 3:  // the header's sizes
      for (std::size_t i = 16; i < 24 && i < bytes.size(); ++i)
        if (rng.below(3) == 0) bytes[i] = static_cast<char>(rng.below(256));
      return bytes;
    default:
      for (std::uint64_t n = 0; n <= rng.below(8); ++n)
        bytes[rng.below(bytes.size())] = static_cast<char>(rng.below(256));
      return bytes;
  }
}

long resident_megabytes() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

}  // namespace

TEST(ImageHostile, MutatedPicturesGiveAPictureOrAReason) {
  Rng rng(41);
  const std::string seeds[] = {encode_png(picture(40, 30, 4)), encode_png(picture(25, 60, 3)),
                               encode_png(picture(31, 33, 1)), encode_jpeg(picture(48, 40, 3), 90),
                               encode_jpeg(picture(40, 40, 1), 60)};
  const int count = test::times(5000, 50'000);
  int refused = 0;
  for (int n = 0; n < count; ++n) {
    const std::string bytes = n % 10 == 9 ? webp(rng) : mutated(seeds[rng.below(std::size(seeds))], rng);
    const auto channels = static_cast<Channels>(rng.below(4));
    const Decoded decoded = decode(bytes, channels, rng.below(2) == 0);
    ASSERT_EQ(decoded.image.has_value(), decoded.problem.empty()) << n;
    refused += !decoded.image;
    if (decoded.image) {
      ASSERT_EQ(decoded.image->pixels.size(), static_cast<std::size_t>(decoded.image->height) *
                                                  static_cast<std::size_t>(decoded.image->width) *
                                                  static_cast<std::size_t>(decoded.image->channels));
    }
  }
  EXPECT_GT(refused, count / 3);
  EXPECT_LT(refused, count) << "some damage leaves a picture";
  EXPECT_LT(resident_megabytes(), 1024);
}

TEST(ImageHostile, BombsAreRefusedWithoutTheMemoryThatTheyAskFor) {
  const std::string bombs[] = {
      bomb(65535, 65535, 1 << 20),         // 4 billion pixels: over the limit
      bomb(0x7fffffff, 0x7fffffff, 1000),  // overflows
      bomb(8192, 8192, 1000),              // within the limit, with next to no data
      bomb(1, 0, 10),
      bomb(0, 1, 10),
      bomb(100, 100, 1 << 22),  // more data than the header says
  };
  for (const std::string& bytes : bombs) {
    const Decoded decoded = decode(bytes, Channels::Rgba);
    if (decoded.image) {
      EXPECT_LE(decoded.image->pixels.size(), std::size_t{4} << 26);
    } else {
      EXPECT_FALSE(decoded.problem.empty());
    }
  }
  EXPECT_FALSE(decode(bombs[0]).image);
  EXPECT_FALSE(decode(bombs[1]).image);
  EXPECT_LT(resident_megabytes(), 1024);
}

}  // namespace divergen::image
