// Every fast way against its plain twin, on masks and polygons drawn at random.

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.hpp"
#include "mask/plain.hpp"
#include "mask/rle.hpp"
#include "mask/spans.hpp"

namespace divergen::mask {
namespace {

constexpr int kTrials = 3000;

/// Sizes around the widths of tiles and vectors, now and then with an empty side of a single pixel.
std::array<std::int64_t, 2> draw_size(Rng& rng) {
  return {rng.range(1, rng.chance(0.2) ? 150 : 40), rng.range(1, rng.chance(0.2) ? 150 : 40)};
}

/// Noise, blobs, nothing, or everything; values other than 0 and 1 too.
std::vector<std::uint8_t> draw_bitmap(Rng& rng, std::int64_t height, std::int64_t width) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(height * width));
  const auto kind = rng.below(4);
  if (kind == 0) {
    const double share = rng.uniform();
    for (auto& p : out) p = rng.chance(share) ? static_cast<std::uint8_t>(1 + rng.below(255)) : 0;
  } else if (kind < 3) {
    for (int blob = 0; blob < 3; ++blob) {
      const double cx = rng.uniform() * static_cast<double>(width), cy = rng.uniform() * static_cast<double>(height),
                   r = rng.uniform() * 20;
      for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x)
          if (std::hypot(static_cast<double>(x) - cx, static_cast<double>(y) - cy) < r)
            out[static_cast<std::size_t>(y * width + x)] = 255;
    }
  } else {
    std::fill(out.begin(), out.end(), rng.chance(0.5) ? 7 : 0);
  }
  return out;
}

std::vector<std::uint8_t> columns_of(const std::vector<std::uint8_t>& rows, std::int64_t height, std::int64_t width) {
  std::vector<std::uint8_t> out;
  for (std::int64_t x = 0; x < width; ++x)
    for (std::int64_t y = 0; y < height; ++y) out.push_back(rows[static_cast<std::size_t>(y * width + x)]);
  return out;
}

/// Corners anywhere around the picture: on pixels, on halves and fifths, far outside, repeated.
std::vector<double> draw_polygon(Rng& rng, std::int64_t height, std::int64_t width) {
  std::vector<double> xy;
  const auto corners = 3 + rng.below(12);
  const double reach = rng.chance(0.3) ? 3.0 : 1.1;
  const auto kind = rng.below(4);
  for (std::uint64_t i = 0; i < corners; ++i) {
    for (const std::int64_t side : {width, height}) {
      const double value = (rng.uniform() * reach - (reach - 1) / 2) * static_cast<double>(side);
      xy.push_back(kind == 0   ? std::round(value)
                   : kind == 1 ? std::round(value * 2) / 2
                   : kind == 2 ? std::round(value * 100) / 100
                               : value);
    }
    if (rng.chance(0.1)) xy.insert(xy.end(), xy.end() - 2, xy.end());
  }
  return xy;
}

/// Runs with empty ones among them, as files may have them.
Rle with_empty_runs(const Rle& rle, Rng& rng) {
  Rle out{rle.height, rle.width, {}};
  for (const std::uint32_t count : rle.counts) {
    if (count > 1 && rng.chance(0.3)) {
      const auto part = static_cast<std::uint32_t>(rng.below(count));
      out.counts.insert(out.counts.end(), {part, 0, count - part});
    } else {
      out.counts.push_back(count);
    }
  }
  return out;
}

}  // namespace

TEST(rle, EncodesAndDecodesLikeThePlainWay) {
  Rng rng(1);
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto [height, width] = draw_size(rng);
    const auto bitmap = draw_bitmap(rng, height, width);
    const Rle rle = encode(bitmap, height, width);
    ASSERT_EQ(rle, plain::encode(bitmap, height, width)) << height << " x " << width;
    ASSERT_EQ(encode_columns(columns_of(bitmap, height, width), height, width), rle);
    for (const Rle& given : {rle, with_empty_runs(rle, rng)}) {
      const auto rows = decode(given);
      ASSERT_EQ(rows, plain::decode(given)) << height << " x " << width;
      std::vector<std::uint8_t> columns(rows.size(), 9);
      decode_columns(given, columns);
      ASSERT_EQ(columns, columns_of(rows, height, width));
      ASSERT_EQ(encode(rows, height, width), rle);
    }
  }
}

// Found by fuzz.rle: a mask of a picture without pixels handed memset a null pointer.
TEST(rle, APictureWithoutPixelsDecodesToNothing) {
  for (const auto& [height, width] : {std::pair<std::int64_t, std::int64_t>{26, 0}, {0, 26}, {0, 0}}) {
    const Rle empty = from_text("", height, width);
    EXPECT_TRUE(decode(empty).empty());
    EXPECT_EQ(area(empty), 0);
    EXPECT_EQ(area(encode({}, height, width)), 0);
  }
}

TEST(rle, AreaAndBoxAreThoseOfThePlainWay) {
  Rng rng(2);
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto [height, width] = draw_size(rng);
    const Rle rle = with_empty_runs(plain::encode(draw_bitmap(rng, height, width), height, width), rng);
    EXPECT_EQ(area(rle), plain::area(rle));
    ASSERT_EQ(bounding_box(rle), plain::bounding_box(rle));
  }
}

TEST(rle, TextAndSpansKeepTheMask) {
  Rng rng(3);
  Spans spans, from_text_spans;
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto [height, width] = draw_size(rng);
    const Rle rle = plain::encode(draw_bitmap(rng, height, width), height, width), loose = with_empty_runs(rle, rng);
    const std::string text = to_text(loose);
    ASSERT_EQ(text, plain::to_text(loose));
    ASSERT_EQ(from_text(text, height, width), loose);
    ASSERT_EQ(plain::from_text(text, height, width), loose);
    to_spans(loose, spans);
    EXPECT_EQ(to_rle(spans), rle);
    EXPECT_EQ(spans.area, plain::area(rle));
    to_spans(to_text(loose), height, width, from_text_spans);
    EXPECT_EQ(from_text_spans.edges, spans.edges);
    EXPECT_EQ(from_text_spans.box(), plain::bounding_box(rle));
  }
}

TEST(rle, TextOfRunsOfAnyLength) {
  Rng rng(7);
  for (int trial = 0; trial < kTrials; ++trial) {
    Rle rle{1 << 16, 1 << 15, {}};
    std::uint64_t left = static_cast<std::uint64_t>(rle.height * rle.width);
    while (left > 0 && rle.counts.size() < 40) {
      const std::uint64_t run = std::min(left, rng.below(std::uint64_t{1} << rng.below(31)));
      rle.counts.push_back(static_cast<std::uint32_t>(run));
      left -= run;
    }
    rle.counts.push_back(static_cast<std::uint32_t>(left));
    const std::string text = to_text(rle);
    ASSERT_EQ(text, plain::to_text(rle));
    ASSERT_EQ(from_text(text, rle.height, rle.width), rle);
  }
}

TEST(rle, IouIsThatOfThePlainWaySymmetricAndBounded) {
  Rng rng(4);
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto [height, width] = draw_size(rng);
    const Rle a = with_empty_runs(plain::encode(draw_bitmap(rng, height, width), height, width), rng);
    const Rle b = with_empty_runs(plain::encode(draw_bitmap(rng, height, width), height, width), rng);
    const double ours = iou(a, b);
    ASSERT_EQ(ours, plain::iou(a, b));
    EXPECT_EQ(ours, iou(b, a));
    EXPECT_TRUE(ours >= 0 && ours <= 1) << ours;
    EXPECT_EQ(iou(a, a), area(a) > 0 ? 1.0 : 0.0);
    const auto matrix = iou_matrix(std::array{a, b}, std::array{b, a, a}, std::array<std::uint8_t, 3>{0, 0, 1});
    EXPECT_EQ(matrix, (std::vector{ours, iou(a, a), iou(a, a), iou(b, b), ours, matrix[5]}));
    if (area(b) > 0) {
      const std::array pair{b, a};
      EXPECT_EQ(matrix[5], static_cast<double>(area(plain::merge(pair, true))) / static_cast<double>(area(b)));
    }
  }
  EXPECT_EQ(iou(Rle{2, 3, {6}}, Rle{3, 2, {6}}), -1);
}

TEST(rle, MergesLikeThePlainWay) {
  Rng rng(5);
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto [height, width] = draw_size(rng);
    std::vector<Rle> masks;
    for (std::uint64_t n = 1 + rng.below(4); n > 0; --n) {
      const Rle one = plain::encode(draw_bitmap(rng, height, width), height, width);
      masks.push_back(masks.empty() ? one : with_empty_runs(one, rng));
    }
    for (const bool intersect : {false, true}) ASSERT_EQ(merge(masks, intersect), plain::merge(masks, intersect));
  }
}

TEST(polygon, IsRasterisedLikeThePlainWay) {
  Rng rng(6);
  for (int trial = 0; trial < 10 * kTrials; ++trial) {
    const auto [height, width] = draw_size(rng);
    const auto xy = draw_polygon(rng, height, width);
    ASSERT_EQ(from_polygon(xy, height, width), plain::from_polygon(xy, height, width)) << "trial " << trial;
    if (trial % 10 == 0) {
      const std::vector parts{xy, draw_polygon(rng, height, width), draw_polygon(rng, height, width)};
      ASSERT_EQ(from_polygons(parts, height, width), plain::from_polygons(parts, height, width));
    }
  }
}

TEST(polygon, FarCornersCostNoMoreThanThePicture) {
  const std::vector<double> huge{-9e6, -9e6, 9e6, -8e6, 9e6, 9e6, -8e6, 9e6};
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(area(from_polygon(huge, 20, 30)), 600U);
}

}  // namespace divergen::mask
