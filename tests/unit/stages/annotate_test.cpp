#include "stages/annotate/annotate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "stages/common/sharded.hpp"
#include "stages/generate/generate.hpp"

namespace divergen::stages {
namespace {

/// The mask is the picture's red channel; remembers the sizes of its calls.
class RedAnnotator : public models::Annotator {
 public:
  std::vector<models::Annotation> annotate(std::span<const image::Image> pictures,
                                           std::span<const std::string>) override {
    calls.push_back(pictures.size());
    std::vector<models::Annotation> masks;
    for (const auto& picture : pictures) {
      EXPECT_EQ(picture.width, pictures.front().width);
      image::Image mask(picture.height, picture.width, 1);
      for (std::size_t i = 0; i < mask.pixels.size(); ++i) mask.pixels[i] = picture.pixels[3 * i];
      masks.push_back({std::move(mask), 0, {}});
    }
    return masks;
  }
  const std::string& weights_hash() const override { return hash_; }
  std::vector<std::size_t> calls;

 private:
  std::string hash_ = "none";
};

/// Looks at two pictures of a category at a time, chooses between "dark" and "bright", and remembers what it was given.
class GroupAnnotator : public models::Annotator {
 public:
  std::vector<models::Annotation> annotate(std::span<const image::Image> pictures,
                                           std::span<const std::string> categories) override {
    EXPECT_EQ(pictures.size(), categories.size());
    std::vector<models::Annotation> out;
    calls.emplace_back();
    for (std::size_t i = 0; i < pictures.size(); ++i) {
      const std::uint8_t value = pictures[i].pixels[0];
      calls.back().push_back(cat(categories[i], ' ', int{value}));
      image::Image mask(pictures[i].height, pictures[i].width, 1);
      std::fill(mask.pixels.begin(), mask.pixels.end(), value);
      out.push_back({std::move(mask), value > 128 ? 1 : 0, {255.0f - value, static_cast<float>(value)}});
    }
    return out;
  }
  const std::string& weights_hash() const override { return hash_; }
  std::vector<std::string> names() const override { return {"dark", "bright"}; }
  std::int64_t group() const override { return 2; }
  std::vector<std::vector<std::string>> calls;

 private:
  std::string hash_ = "none";
};

image::Image red(int width, std::uint8_t value) {
  image::Image picture(2, width, 3);
  for (std::size_t i = 0; i < picture.pixels.size(); i += 3) picture.pixels[i] = value;
  return picture;
}

store::Table pictures_of(const std::vector<std::string>& heap) {
  std::vector<std::uint64_t> ids;
  for (std::size_t i = 0; i < heap.size(); ++i) ids.push_back(1000 + i);
  store::Table table(kPicturesFormat, kPicturesVersion);
  table.add("item_id", ids);
  table.set_heap(heap);
  return table;
}

}  // namespace

TEST(Annotate, GivesGroupsOfOneCategoryToAnnotatorsThatWantThem) {
  GroupAnnotator annotator;
  store::Table pictures =
      pictures_of({image::encode_png(red(3, 10)), image::encode_png(red(3, 20)), image::encode_png(red(3, 30)),
                   image::encode_png(red(3, 40)), "", image::encode_png(red(3, 50))});
  pictures.add("category", std::vector<std::int32_t>{7, 3, 7, 7, 7, 3});

  const store::Table masks = make_masks(pictures, annotator, 4, {{3, "apple"}, {7, "teddy_bear"}});

  // A group as soon as it is full; what is left, by name. None is padded: a mask depends on its whole group.
  EXPECT_EQ(annotator.calls, (std::vector<std::vector<std::string>>{
                                 {"teddy_bear 10", "teddy_bear 30"}, {"apple 20", "apple 50"}, {"teddy_bear 40"}}));
  const auto first_value = [&](std::size_t row) {
    return int{image::decode(masks.heap(row), image::Channels::AsStored).image->pixels[0]};
  };
  EXPECT_EQ(first_value(0), 10);
  EXPECT_EQ(first_value(1), 20);
  EXPECT_EQ(first_value(5), 50);
  EXPECT_TRUE(masks.heap(4).empty());
}

TEST(Annotate, KeptRowsOfAGroupAreLookedAtAndNotMade) {
  GroupAnnotator annotator;
  store::Table pictures = pictures_of({image::encode_png(red(3, 10)), image::encode_png(red(3, 20)),
                                       image::encode_png(red(3, 30)), image::encode_png(red(3, 40))});
  pictures.add("category", std::vector<std::int32_t>{7, 3, 7, 3});
  store::KeptRows kept{store::Table(kMasksFormat, kMasksVersion), {0, 1, 3}, 4, 0};

  const store::Table masks = make_masks(pictures, annotator, 4, {{3, "apple"}, {7, "teddy_bear"}}, {&kept, false});

  EXPECT_EQ(annotator.calls, (std::vector<std::vector<std::string>>{{"teddy_bear 10", "teddy_bear 30"}}));
  EXPECT_EQ(masks.get<std::int32_t>(kChosen), (std::vector<std::int32_t>{-1, -1, 0, -1}));
  EXPECT_TRUE(masks.heap(0).empty() && masks.heap(1).empty() && masks.heap(3).empty());
  EXPECT_FALSE(masks.heap(2).empty());
}

TEST(Annotate, RecordsWhichAnnotatorWasChosenAndAllScores) {
  GroupAnnotator annotator;
  store::Table pictures = pictures_of({image::encode_png(red(3, 10)), "", image::encode_png(red(3, 200))});
  pictures.add("category", std::vector<std::int32_t>{3, 3, 3});

  const store::Table masks = make_masks(pictures, annotator, 4, {{3, "apple"}});

  EXPECT_EQ(masks.documents.at(kAnnotators), R"(["dark","bright"])");
  EXPECT_EQ(masks.get<std::int32_t>(kChosen), (std::vector<std::int32_t>{0, -1, 1}));
  const auto& dark = masks.get<float>(std::string(kScoreOf) + "dark");
  const auto& bright = masks.get<float>(std::string(kScoreOf) + "bright");
  EXPECT_EQ(dark[0], 245.0f);
  EXPECT_EQ(bright[2], 200.0f);
  EXPECT_TRUE(std::isnan(dark[1]) && std::isnan(bright[1]));
  RedAnnotator alone;
  EXPECT_FALSE(make_masks(pictures, alone, 2).has(kChosen));
}

TEST(Annotate, MeasuresMasksAboveTheThresholdOnly) {
  RedAnnotator annotator;

  const store::Table masks = make_masks(
      pictures_of({image::encode_png(red(3, 128)), image::encode_png(red(3, 129)), image::encode_png(red(3, 255))}),
      annotator, 2);

  EXPECT_EQ(masks.get<std::int64_t>("area"), (std::vector<std::int64_t>{0, 6, 6}));
  EXPECT_EQ(annotator.calls, (std::vector<std::size_t>{2, 2}));  // the last one padded
  const auto mask = image::decode(masks.heap(1), image::Channels::AsStored);
  ASSERT_TRUE(mask.image);
  EXPECT_EQ(mask.image->channels, 1);
  EXPECT_EQ(mask.image->pixels[0], 129);
}

TEST(Annotate, GoesOnPastPicturesThatCannotBeRead) {
  RedAnnotator annotator;
  std::string torn = image::encode_png(red(3, 200));
  torn.resize(torn.size() / 2);

  const store::Table masks = make_masks(pictures_of({"", image::encode_png(red(3, 200)), torn}), annotator, 2);

  EXPECT_EQ(masks.rows(), 3u);
  EXPECT_EQ(masks.get<std::int64_t>("area"), (std::vector<std::int64_t>{-1, 6, -1}));
  EXPECT_TRUE(masks.heap(0).empty());
  EXPECT_EQ(rejected_of(masks.attributes), (std::map<std::string, std::int64_t>{{kUnreadable, 2}}));
}

TEST(Annotate, KeepsPicturesOfOtherSizesApart) {
  RedAnnotator annotator;

  const store::Table masks = make_masks(
      pictures_of({image::encode_png(red(3, 200)), image::encode_png(red(5, 200)), image::encode_png(red(5, 0))}),
      annotator, 2);

  EXPECT_EQ(masks.get<std::int64_t>("area"), (std::vector<std::int64_t>{6, 10, 0}));
}

}  // namespace divergen::stages
