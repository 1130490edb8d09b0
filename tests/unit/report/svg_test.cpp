#include "stages/report/svg.hpp"

#include <cmath>

#include <gtest/gtest.h>

#include "stages/report/charts.hpp"
#include "stages/report/facts.hpp"
#include "stages/report/pictures.hpp"

namespace divergen::stages::report {
namespace {

TEST(Base64, IsThatOfRfc4648) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foob"), "Zm9vYg==");
  EXPECT_EQ(base64("fooba"), "Zm9vYmE=");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(base64("\xff\xfe\xfd"), "//79");
}

TEST(Ticks, AreRoundAndInside) {
  EXPECT_EQ(nice_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  const auto ticks = nice_ticks(0.13, 0.87, 4);
  ASSERT_GE(ticks.size(), 3u);
  EXPECT_NEAR(ticks[0], 0.2, 1e-12);
  EXPECT_LE(ticks.back(), 0.87);
  EXPECT_EQ(nice_ticks(3, 3, 5).size(), 1u);
  EXPECT_EQ(nice_ticks(0, std::nan(""), 5).size(), 1u);
  EXPECT_EQ(tick_label(0.25, 0.05), "0.25");
  EXPECT_EQ(tick_label(2, 1), "2");
  EXPECT_EQ(tick_label(180000, 20000), "180 k");
  EXPECT_EQ(tick_label(-1e-18, 0.2), "0");
  EXPECT_EQ(tick_label(-0.4, 0.2), "-0.4");
}

TEST(Drawing, EscapesWords) {
  Svg svg(10, 10, "a \"b\" <c>");
  svg.text(1, 2, "x < y & z", "label");
  svg.rect(0, 0, -3, 1, "c", "tip > \"q\"");
  const std::string text = svg.str();
  EXPECT_EQ(text.find("<c>"), std::string::npos);
  EXPECT_NE(text.find("x &lt; y &amp; z"), std::string::npos);
  EXPECT_NE(text.find("width=\"0\""), std::string::npos);  // never negative
}

TEST(Numbers, AreThoseOfThePaper) {
  EXPECT_EQ(percent(0.4751), "47.5");
  EXPECT_EQ(percent(-1), "–");
  EXPECT_EQ(gain(0.4139, 0.5007), "+8.7");
  EXPECT_EQ(gain(0.2, 0.15), "−5.0");
  EXPECT_EQ(gain(0.2, 0.2001), "±0.0");
  EXPECT_EQ(gain(-1, 0.3), "–");
  // What is printed adds up: 12.3 and 12.4, so +0.1 although the difference is 0.02 points.
  EXPECT_EQ(gain(0.12349, 0.12351), "+0.1");
}

TEST(Charts, StandWithoutData) {
  EXPECT_NE(line_chart("t", "x", {}, 300, 200).find("</svg>"), std::string::npos);
  EXPECT_NE(line_chart("t", "x", {{{1, 2}, {std::nan(""), std::nan("")}, "s0"}}, 300, 200).find("</svg>"),
            std::string::npos);
  EXPECT_NE(histogram("t", {}, {}, 0.5).find("</svg>"), std::string::npos);
  EXPECT_NE(share_bar("t", {}).find("</svg>"), std::string::npos);
  EXPECT_NE(column_chart("t", {}).find("</svg>"), std::string::npos);
  EXPECT_EQ(timeline({}), "");
}

TEST(Charts, HaveNoNumberThatIsNone) {
  const std::vector<double> x{1, 2, 3, 4}, y{1, std::nan(""), 3, std::numeric_limits<double>::infinity()};
  for (const std::string& drawing :
       {line_chart("t", "x", {{x, y, "s0"}}, 300, 200), histogram("t", {0.5f, 0.5f}, {}, std::nan("")),
        dot_chart("t", {{"All", {-1, -1}}, {"Rare", {0.1, 0.2}}}, {true, false}, 0.2)}) {
    EXPECT_EQ(drawing.find("nan"), std::string::npos) << drawing;
    EXPECT_EQ(drawing.find("inf"), std::string::npos) << drawing;
  }
}

TEST(Timeline, CutsLongPausesOut) {
  StageRecord first{"generate", "", 10, 5, {}, {{0, "a", 5, 9, 1000, 1010}}, {}};
  StageRecord second{"filter", "", 10, 5, {}, {{0, "a", 5, 9, 90000, 90010}}, {}};
  EXPECT_NE(timeline({first, second}).find("class=\"bound\""), std::string::npos);
  second.ranks[0].start = 1010.2;
  second.ranks[0].end = 1020;
  EXPECT_EQ(timeline({first, second}).find("class=\"bound\""), std::string::npos);
}

}  // namespace
}  // namespace divergen::stages::report
