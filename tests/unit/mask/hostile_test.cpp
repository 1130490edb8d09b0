// Masks from files that were damaged or made to harm: refused with a message, never read past their end.

#include <gtest/gtest.h>

#include <limits>

#include "base/error.hpp"
#include "mask/rle.hpp"
#include "mask/spans.hpp"

namespace divergen::mask {
namespace {

template <class Action>
void expect_refusal(const std::string& why, const Action& action) {
  try {
    action();
    ADD_FAILURE() << "it was taken; expected: " << why;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Data);
    EXPECT_NE(error.text().why.find(why), std::string::npos) << error.text().why;
    EXPECT_FALSE(error.text().remedy.empty());
  }
}

void expect_text_refusal(const std::string& why, const std::string& text, std::int64_t height, std::int64_t width) {
  Spans spans;
  expect_refusal(why, [&] { from_text(text, height, width); });
  expect_refusal(why, [&] { to_spans(text, height, width, spans); });
}

}  // namespace

TEST(hostile, TextsThatAreNoMasks) {
  expect_text_refusal("its runs sum to", "", 3, 4);
  expect_text_refusal("its runs sum to", "1", 3, 4);       // one run of 1
  expect_text_refusal("ends within a number", "Q", 3, 4);  // says that more follows
  expect_text_refusal("a character", "12 4", 3, 4);        // a space is below COCO's alphabet
  expect_text_refusal("a character", "12\x7f", 3, 4);
  expect_text_refusal("a character", "oooooooooooooooooooo", 3, 4);  // a number without end
  expect_text_refusal("negative or huge", "O4", 3, 4);               // -1
  expect_text_refusal("negative or huge", "ooooooo1", 3, 4);
}

TEST(hostile, Sizes) {
  for (const auto& [height, width] : std::vector<std::array<std::int64_t, 2>>{
           {-1, 4}, {4, -1}, {1 << 21, 1}, {1 << 20, 1 << 20}, {std::numeric_limits<std::int64_t>::max(), 2}}) {
    expect_text_refusal("its size is", "0", height, width);
    expect_refusal("its size is", [&, h = height, w = width] { from_counts({0}, h, w); });
  }
}

TEST(hostile, CountsThatDoNotFit) {
  expect_refusal("its runs sum to", [] { from_counts({5, 6}, 3, 4); });
  expect_refusal("its runs sum to", [] { from_counts({4294967295U, 4294967295U}, 3, 4); });
  EXPECT_EQ(from_counts({5, 7}, 3, 4).counts.size(), 2U);
}

TEST(hostile, PicturesWithoutPixels) {
  for (const auto& [height, width] : std::vector<std::array<std::int64_t, 2>>{{0, 63}, {63, 0}, {0, 0}}) {
    const Rle rle = from_text("00", height, width);
    EXPECT_TRUE(decode(rle).empty());
    EXPECT_EQ(area(encode({}, height, width)), 0U);
    EXPECT_EQ(bounding_box(rle), (std::array<double, 4>{0, 0, 0, 0}));
    EXPECT_EQ(iou(rle, rle), 0.0);
    EXPECT_EQ(area(from_polygon(std::vector<double>{0, 0, 5, 0, 5, 5}, height, width)), 0U);
  }
}

TEST(hostile, PolygonsOutOfThisWorld) {
  for (const double bad :
       {1e300, -1e9, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
    expect_refusal("coordinate", [&] { from_polygon(std::vector<double>{0, 0, bad, 1, 2, 2}, 10, 10); });
  EXPECT_EQ(area(from_polygon({}, 10, 10)), 0U);
}

}  // namespace divergen::mask
