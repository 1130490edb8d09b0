#include "weights/dtype.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace divergen::weights {
namespace {

template <class To, class From>
std::vector<To> converted(DType from, const std::vector<From>& in, DType to) {
  std::vector<To> out(in.size());
  convert(from, std::as_bytes(std::span(in)), to, std::as_writable_bytes(std::span(out)));
  return out;
}

/// Half by arithmetic: sign, 5 bits of exponent, 10 of mantissa (IEEE 754 binary16).
float value_of_half(std::uint16_t half) {
  const int exponent = (half >> 10) & 0x1f, mantissa = half & 0x3ff;
  const float sign = (half & 0x8000) != 0 ? -1.f : 1.f;
  if (exponent == 0x1f) return mantissa != 0 ? std::nanf("") : sign * std::numeric_limits<float>::infinity();
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(1024.f + static_cast<float>(mantissa), exponent - 25));
}

}  // namespace

TEST(DType, EveryHalfIsConvertedToFloatAndBack) {
  std::vector<std::uint16_t> halves;
  for (std::uint32_t i = 0; i < 65536; ++i) halves.push_back(static_cast<std::uint16_t>(i));
  const auto floats = converted<float>(DType::F16, halves, DType::F32);
  const auto back = converted<std::uint16_t>(DType::F32, floats, DType::F16);
  for (std::size_t i = 0; i < halves.size(); ++i) {
    const float expected = value_of_half(halves[i]);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(floats[i])) << i;
      EXPECT_EQ(back[i] & 0x7c00, 0x7c00) << i;
      EXPECT_NE(back[i] & 0x3ff, 0) << i;
    } else {
      EXPECT_EQ(floats[i], expected) << i;
      EXPECT_EQ(back[i], halves[i]) << i;
    }
  }
}

TEST(DType, RoundsHalvesToNearestEven) {
  std::vector<float> between;
  std::vector<std::uint16_t> expected;
  for (std::uint16_t i = 0; i < 0x7bff; ++i) {
    const float low = value_of_half(i), high = value_of_half(static_cast<std::uint16_t>(i + 1));
    const float middle = low + (high - low) / 2;
    for (const float value : {std::nextafter(middle, 0.f), middle, std::nextafter(middle, 1e9f)}) {
      between.push_back(value);
      expected.push_back(static_cast<std::uint16_t>(value < middle ? i : value > middle ? i + 1 : i + (i & 1)));
    }
  }
  EXPECT_EQ(converted<std::uint16_t>(DType::F32, between, DType::F16), expected);
  // One at a time, the scalar way is taken; it must give the same.
  for (std::size_t i = 0; i < between.size(); i += 97)
    EXPECT_EQ(converted<std::uint16_t>(DType::F32, std::vector<float>{between[i]}, DType::F16)[0], expected[i]);
  EXPECT_EQ(converted<std::uint16_t>(DType::F32, std::vector<float>{65519.f, 65520.f, -1e30f}, DType::F16),
            (std::vector<std::uint16_t>{0x7bff, 0x7c00, 0xfc00}));
}

TEST(DType, BrainFloatsRoundToNearestEven) {
  const auto from_bits = [](std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  };
  const std::vector<float> values{1.f,           from_bits(0x3f808000), from_bits(0x3f818000), from_bits(0x3f808001),
                                  std::nanf(""), from_bits(0x7f7fffff)};
  EXPECT_EQ(converted<std::uint16_t>(DType::F32, values, DType::BF16),
            (std::vector<std::uint16_t>{0x3f80, 0x3f80, 0x3f82, 0x3f81, 0x7fc0, 0x7f80}));
  EXPECT_EQ(converted<float>(DType::BF16, std::vector<std::uint16_t>{0x4049, 0xff80}, DType::F32),
            (std::vector<float>{from_bits(0x40490000), -std::numeric_limits<float>::infinity()}));
}

TEST(DType, FindsWhatIsNotFinite) {
  std::vector<float> values(10'000, 1.f);
  EXPECT_FALSE(first_not_finite(DType::F32, std::as_bytes(std::span(values))));
  values[9'999] = std::numeric_limits<float>::infinity();
  values[5'000] = std::nanf("");
  EXPECT_EQ(first_not_finite(DType::F32, std::as_bytes(std::span(values))), 5'000u);
  const std::vector<std::uint16_t> halves{0x3c00, 0x7bff, 0xfc00};
  EXPECT_EQ(first_not_finite(DType::F16, std::as_bytes(std::span(halves))), 2u);
  EXPECT_FALSE(first_not_finite(DType::BF16, std::as_bytes(std::span(halves)).first(4)));
}

}  // namespace divergen::weights
