#include "store/fletcher32.hpp"

#include <gtest/gtest.h>

#include "base/rng.hpp"

namespace divergen::store {
namespace {

/// As HDF5 has it, word by word.
std::uint32_t plain(std::string_view bytes) {
  std::uint32_t first = 0, second = 0;
  const auto fold = [](std::uint32_t x) { return (x & 0xffff) + (x >> 16); };
  const auto add = [&](std::uint32_t word) {
    first = fold(first + word);
    second = fold(second + first);
  };
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2)
    add(static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i])) << 8 |
        static_cast<unsigned char>(bytes[i + 1]));
  if (bytes.size() % 2 != 0) add(static_cast<std::uint32_t>(static_cast<unsigned char>(bytes.back())) << 8);
  return fold(second) << 16 | fold(first);
}

}  // namespace

TEST(Fletcher32, IsThatOfHdf5) {
  Rng rng(5);
  for (const std::size_t size : {0U, 1U, 2U, 3U, 127U, 128U, 129U, 1000U, 65536U, 300'001U}) {
    std::string bytes(size, '\0');
    EXPECT_EQ(fletcher32(bytes), 0U) << "zeros";
    for (char& c : bytes) c = static_cast<char>(rng.below(256));
    EXPECT_EQ(fletcher32(bytes), plain(bytes)) << size;
    bytes.assign(size, '\xff');
    EXPECT_EQ(fletcher32(bytes), plain(bytes)) << size << " of the largest";
  }
}

}  // namespace divergen::store
