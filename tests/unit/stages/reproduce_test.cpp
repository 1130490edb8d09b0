#include "stages/reproduce/compare.hpp"

#include <gtest/gtest.h>

namespace divergen::stages {

TEST(CompareCutOuts, TellsHowFarOffItIs) {
  const image::Image kept(4, 5, 4, 100);
  image::Image made = kept;

  const Reproduction equal = compare_cut_outs("png", made, "png", kept);
  EXPECT_TRUE(equal.same_bytes && equal.same_pixels);

  made.at(1, 2)[0] = 103;
  made.at(1, 2)[3] = 99;
  made.at(3, 4)[1] = 90;
  const Reproduction off = compare_cut_outs("other", made, "png", kept);
  EXPECT_FALSE(off.same_bytes || off.same_pixels);
  EXPECT_EQ(off.differing, 2);
  EXPECT_EQ(off.pixels, 20);
  EXPECT_EQ(off.largest, 10);
  EXPECT_DOUBLE_EQ(off.mean, 14.0 / 80);

  const Reproduction other = compare_cut_outs("a", image::Image(4, 6, 4), "b", kept);
  EXPECT_FALSE(other.same_pixels);
  EXPECT_NE(other.note.find("6x4"), std::string::npos);
}

}  // namespace divergen::stages
