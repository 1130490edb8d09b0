#include "base/rng.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace divergen {

TEST(Rng, GivesThePublishedPhiloxVector) {
  // Known-answer test of Random123 for Philox4x32-10 with key 0 and counter 0.
  Rng rng(0);

  EXPECT_EQ(rng.next(), 0x6627e8d5u);
  EXPECT_EQ(rng.next(), 0xe169c58du);
  EXPECT_EQ(rng.next(), 0xbc57ac4cu);
  EXPECT_EQ(rng.next(), 0x9b00dbd8u);
}

TEST(Rng, BelowStaysInBoundsAndReachesAll) {
  Rng rng(7);
  std::vector<int> seen(5);

  for (int i = 0; i < 1000; ++i) ++seen.at(rng.below(5));

  for (const int count : seen) EXPECT_GT(count, 140);
}

TEST(Rng, NormalHasMeanZeroAndUnitVariance) {
  Rng rng(3);
  double sum = 0, squares = 0;
  const int n = 20000;

  for (int i = 0; i < n; ++i) {
    const double x = rng.normal();
    sum += x;
    squares += x * x;
  }

  EXPECT_NEAR(sum / n, 0, 0.03);
  EXPECT_NEAR(squares / n, 1, 0.05);
}

TEST(DeriveSeed, DependsOnEachPart) {
  const auto base = derive_seed(1, "image", {2, 3});

  EXPECT_EQ(base, derive_seed(1, "image", {2, 3}));
  EXPECT_NE(base, derive_seed(2, "image", {2, 3}));
  EXPECT_NE(base, derive_seed(1, "mask", {2, 3}));
  EXPECT_NE(base, derive_seed(1, "image", {3, 2}));
}

}  // namespace divergen
