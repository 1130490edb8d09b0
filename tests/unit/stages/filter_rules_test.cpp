#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "image/geometry.hpp"
#include "stages/filter/crop_maker.hpp"
#include "stages/filter/similarity.hpp"
#include "stages/filter/verdict.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

config::FilterSettings bounds() {
  config::FilterSettings settings;
  settings.similarity = 0.6;
  settings.min_area = 0.05;
  settings.max_area = 0.95;
  settings.min_clip_score = 21;
  settings.tolerance = 1;
  return settings;
}

/// Readable, compared with three crops, similar, well scored, of middling area.
Score good() { return {true, 3, 0.7F, 25, 0.4F}; }

store::Table table_of(const std::vector<Score>& scores, const std::vector<std::int32_t>& categories) {
  std::vector<std::uint64_t> ids;
  std::vector<std::uint8_t> readable;
  std::vector<std::int32_t> crops;
  std::vector<float> similarity, clip, area;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    ids.push_back(100 + i);
    readable.push_back(scores[i].is_readable ? 1 : 0);
    crops.push_back(scores[i].crops);
    similarity.push_back(scores[i].similarity);
    clip.push_back(scores[i].clip_score);
    area.push_back(scores[i].area_share);
  }
  store::Table table(kScoresFormat, kScoresVersion);
  table.add("item_id", ids);
  table.add("category", categories);
  table.add("readable", readable);
  table.add("crops", crops);
  table.add("similarity", similarity);
  table.add("clip_score", clip);
  table.add("area_share", area);
  return table;
}

}  // namespace

TEST(FilterVerdict, NamesTheRuleThatAnItemBreaks) {
  const auto with = [](auto change) {
    Score score = good();
    change(score);
    return judge(score, 21, bounds());
  };

  EXPECT_EQ(judge(good(), 21, bounds()), Reason::Kept);
  EXPECT_EQ(with([](Score& s) { s.is_readable = false; }), Reason::Unreadable);
  EXPECT_EQ(with([](Score& s) { s.area_share = 0.049F; }), Reason::MaskTooSmall);
  EXPECT_EQ(with([](Score& s) { s.area_share = 0.951F; }), Reason::MaskTooLarge);
  EXPECT_EQ(with([](Score& s) { s.clip_score = 20.9F; }), Reason::LowClipScore);
  EXPECT_EQ(with([](Score& s) { s.similarity = 0.59F; }), Reason::UnlikeRealCrops);
}

TEST(FilterVerdict, BoundsAreInclusive) {
  Score score = good();
  score.similarity = 0.625F;
  score.clip_score = 21;
  config::FilterSettings settings = bounds();
  settings.similarity = 0.625;
  for (const float share : {0.05F, 0.95F}) {
    score.area_share = share;
    EXPECT_EQ(judge(score, 21, settings), Reason::Kept) << share;
  }
}

TEST(FilterVerdict, ExtraCategoriesAreNotComparedWithCrops) {
  Score score = good();
  score.crops = 0;
  score.similarity = kNoSimilarity;

  EXPECT_EQ(judge(score, 21, bounds()), Reason::Kept);
}

TEST(FilterVerdict, AnEmptyMaskIsNeverKept) {
  config::FilterSettings settings = bounds();
  settings.min_area = 0;
  Score score = good();
  score.area_share = 0;

  EXPECT_EQ(judge(score, 21, settings), Reason::MaskTooSmall);
}

TEST(FilterVerdict, NanIsNeverKept) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Score score = good();
  score.similarity = nan;
  EXPECT_EQ(judge(score, 21, bounds()), Reason::UnlikeRealCrops);
  score.clip_score = nan;
  EXPECT_EQ(judge(score, 21, bounds()), Reason::LowClipScore);
}

TEST(FilterVerdict, TheBarFallsWithACategoryThatScoresBadly) {
  EXPECT_EQ(clip_score_bar(30, bounds()), 21);
  EXPECT_EQ(clip_score_bar(18.5F, bounds()), 17.5);
}

TEST(FilterVerdict, JudgesATableByTheBestOfAllTables) {
  std::vector<Score> scores(4, good());
  scores[0].clip_score = 19.5F;  // category 1: its best is 20 in another table, so the bar is 19
  scores[1].clip_score = 18.9F;
  scores[2].clip_score = 40;  // unreadable rows raise no bar
  scores[2].is_readable = false;
  scores[3].clip_score = 20;  // category 2: its best is 30, the bar 21
  const store::Table table = table_of(scores, {1, 1, 1, 2});
  std::vector<Score> others(2, good());
  others[0].clip_score = 20;
  others[1].clip_score = 30;
  std::map<std::int32_t, float> best;
  add_best_scores(table, best);
  add_best_scores(table_of(others, {1, 2}), best);

  const store::Table verdicts = make_verdicts(table, best, bounds());

  EXPECT_EQ(verdicts.get<std::uint8_t>("kept"), (std::vector<std::uint8_t>{1, 0, 0, 0}));
  EXPECT_EQ(count_reasons(verdicts),
            (std::map<std::string, std::int64_t>{{"kept", 1}, {"low_clip_score", 2}, {"unreadable", 1}}));
  EXPECT_EQ(verdicts.get<std::uint64_t>("item_id"), table.get<std::uint64_t>("item_id"));
}

TEST(FilterVerdict, RefusesReasonsThatHaveNoName) {
  store::Table verdicts = make_verdicts(table_of({good()}, {1}), {{1, 25.0F}}, bounds());
  verdicts.documents["reasons"] = "[]";

  EXPECT_THROW(count_reasons(verdicts), Error);
}

TEST(FilterSimilarity, SumsSurviveTheirBytesAndMergeInOrder) {
  Rng rng(5);
  FeatureSum first, second;
  std::vector<double> expected(6, 0);
  for (int i = 0; i < 7; ++i) {
    std::vector<float> v(6);
    for (float& x : v) x = static_cast<float>(rng.normal());
    make_unit(v);
    EXPECT_NEAR(dot(v, v), 1, 1e-6);
    for (std::size_t k = 0; k < v.size(); ++k) expected[k] += v[k] / 7.0;
    (i < 3 ? first : second).add(v);
  }

  FeatureSum sum = FeatureSum::from_bytes(first.bytes(), first.count());
  sum.merge(FeatureSum::from_bytes(second.bytes(), second.count()));

  ASSERT_EQ(sum.count(), 7);
  const auto mean = sum.mean();
  for (std::size_t k = 0; k < mean.size(); ++k) EXPECT_NEAR(mean[k], expected[k], 1e-6);
  EXPECT_THROW(FeatureSum::from_bytes(first.bytes().substr(1), 3), Error);
}

TEST(FilterSimilarity, ZerosStayZeros) {
  std::vector<float> zeros(4, 0);

  make_unit(zeros);

  EXPECT_EQ(zeros, std::vector<float>(4, 0));
}

/// The blur of a window must be the blur of the whole picture, whichever borders the window touches.
TEST(FilterCrops, BlurringTheWindowEqualsBlurringThePicture) {
  Rng rng(11);
  for (int trial = 0; trial < 200; ++trial) {
    const int height = static_cast<int>(rng.range(12, 40)), width = static_cast<int>(rng.range(12, 40));
    image::Image picture(height, width, 3);
    for (auto& p : picture.pixels) p = static_cast<std::uint8_t>(rng.below(256));
    const int x0 = static_cast<int>(rng.range(0, width)), y0 = static_cast<int>(rng.range(0, height));
    std::vector<std::uint8_t> bits(static_cast<std::size_t>(height * width), 0);
    for (int y = y0; y < std::min(height, y0 + 6); ++y)
      for (int x = x0; x < std::min(width, x0 + 5); ++x)
        bits[static_cast<std::size_t>(y * width + x)] = rng.chance(0.7) || (x == x0 && y == y0) ? 1 : 0;
    const mask::Rle mask = mask::encode(bits, height, width);
    const auto box = crop_box(mask, rng.range(0, 4));
    ASSERT_TRUE(box);

    image::Image expected = image::box_blur(picture, 10);
    for (std::size_t i = 0; i < bits.size(); ++i)
      if (bits[i] != 0)
        for (std::size_t k = 0; k < 3; ++k) expected.pixels[3 * i + k] = picture.pixels[3 * i + k];

    ASSERT_EQ(filled_crop(picture, mask, *box, CropFill::Blur),
              image::crop(expected, box->x, box->y, box->width, box->height))
        << "trial " << trial << " box " << box->x << "," << box->y << " of " << width << "x" << height;
  }
}

/// A maker of crops reads parts of pictures; what it cuts is what is cut from the whole ones.
TEST(FilterCrops, MadeFromPartsOfPicturesEqualThoseOfWholeOnes) {
  const test::TemporaryFolder folder;
  lvis::Dataset dataset;
  Rng rng(5);
  std::vector<image::Image> whole;
  const auto add_picture = [&](const std::string& name, int height, int width) {
    image::Image picture(height, width, 3);
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        for (int c = 0; c < 3; ++c)
          picture.at(y, x)[c] =
              static_cast<std::uint8_t>((x * (3 + c) + y * 5) % 200 + static_cast<int>(rng.below(40)));
    const bool is_jpeg = name.ends_with(".jpg");
    const std::string bytes = is_jpeg ? image::encode_jpeg(picture, 90) : image::encode_png(picture);
    write_file_atomic(folder / name, bytes);
    whole.push_back(*image::decode(bytes).image);
    dataset.images.push_back({static_cast<std::int64_t>(whole.size()), height, width, name, false, {}, {}});
  };
  add_picture("a.jpg", 150, 210);
  add_picture("b.png", 70, 60);
  add_picture("c.jpg", 41, 300);
  std::vector<CropPlace> places;
  for (std::size_t picture = 0; picture < whole.size(); ++picture)
    for (int n = 0; n < 7; ++n) {
      const int height = whole[picture].height, width = whole[picture].width;
      std::vector<std::uint8_t> bits(static_cast<std::size_t>(height * width), 0);
      const auto y0 = static_cast<int>(rng.range(0, height)), x0 = static_cast<int>(rng.range(0, width));
      for (int y = y0; n != 3 && y < std::min(height, y0 + 25); ++y)
        for (int x = x0; x < std::min(width, x0 + 19); ++x)
          bits[static_cast<std::size_t>(y * width + x)] = rng.chance(0.7) || (x == x0 && y == y0) ? 1 : 0;
      lvis::Annotation a;
      a.image_id = static_cast<std::int64_t>(picture + 1);
      a.rle = mask::encode(bits, height, width);
      places.push_back({1, places.size(), picture});
      dataset.annotations.push_back(a);
    }
  dataset.rebuild_indices();
  for (const char* shape : {"box", "square"})
    for (const char* fill : {"blur", "white", "none"}) {
      config::FilterSettings settings;
      settings.crop_padding = 6;
      settings.crop_shape = shape;
      settings.crop_fill = fill;
      CropMaker maker(dataset, folder.path(), settings);
      std::map<std::string, std::int64_t> rejected;
      for (std::size_t i = 0; i < places.size(); ++i) {
        if (i == 5) continue;  // places may be left out
        const auto made = maker.make(places, i, rejected);
        const mask::Rle mask = dataset.mask_of(i);
        const bool is_square = settings.crop_shape == "square";
        auto box = crop_box(mask, is_square ? 0 : 6);
        ASSERT_EQ(made.has_value(), box.has_value()) << i;
        if (!box) continue;
        if (is_square) box = square_box(*box);
        EXPECT_EQ(*made, filled_crop(whole[places[i].image], mask, *box, crop_fill_of(fill))) << shape << fill << i;
      }
      EXPECT_EQ(rejected, (std::map<std::string, std::int64_t>{{kEmptyMask, 3}}));
    }
  // Each crop of a picture that cannot be used is counted.
  write_file_atomic(folder / "a.jpg", image::encode_jpeg(image::Image(150, 200, 3), 90));
  std::filesystem::remove(folder / "c.jpg");
  CropMaker maker(dataset, folder.path(), {});
  std::map<std::string, std::int64_t> rejected;
  int made = 0;
  for (std::size_t i = 0; i < places.size(); ++i) made += maker.make(places, i, rejected).has_value();
  EXPECT_EQ(made, 6);
  EXPECT_EQ(rejected, (std::map<std::string, std::int64_t>{{kEmptyMask, 3}, {kUnreadablePicture, 12}}));
}

TEST(FilterCrops, AnEmptyMaskHasNoBox) {
  EXPECT_FALSE(crop_box(mask::encode(std::vector<std::uint8_t>(12, 0), 3, 4), 40));
}

TEST(FilterCrops, PlansByCategoryAndPictureAndLeavesOutCrowds) {
  lvis::Dataset dataset;
  for (const std::int64_t id : {50, 40}) dataset.images.push_back({id, 8, 8, "x.png", false, {}, {}});
  const auto annotate = [&](std::int64_t image, std::int64_t category, bool is_crowd) {
    lvis::Annotation a;
    a.image_id = image;
    a.category_id = category;
    a.is_crowd = is_crowd;
    dataset.annotations.push_back(a);
  };
  annotate(40, 2, false);
  annotate(50, 2, false);
  annotate(50, 1, false);
  annotate(50, 1, true);
  annotate(40, 3, false);
  dataset.rebuild_indices();

  const auto all = plan_crops(dataset, {1, 2}, 0), some = plan_crops(dataset, {1, 2}, 1);

  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].annotation, 2u);
  EXPECT_EQ(all[1].annotation, 1u);  // of the picture that stands first in the file
  EXPECT_EQ(all[2].annotation, 0u);
  ASSERT_EQ(some.size(), 2u);
  EXPECT_EQ(some[1].annotation, 1u);
}

}  // namespace divergen::stages
