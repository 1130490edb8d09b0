#include "stages/annotate/annotate.hpp"

#include <gtest/gtest.h>

#include "stages/common/sharded.hpp"
#include "stages/generate/generate.hpp"

namespace divergen::stages {
namespace {

/// The mask is the picture's red channel; remembers the sizes of its calls.
class RedAnnotator : public models::Annotator {
 public:
  std::vector<image::Image> annotate(std::span<const image::Image> pictures) override {
    calls.push_back(pictures.size());
    std::vector<image::Image> masks;
    for (const auto& picture : pictures) {
      EXPECT_EQ(picture.width, pictures.front().width);
      image::Image mask(picture.height, picture.width, 1);
      for (std::size_t i = 0; i < mask.pixels.size(); ++i) mask.pixels[i] = picture.pixels[3 * i];
      masks.push_back(std::move(mask));
    }
    return masks;
  }
  const std::string& weights_hash() const override { return hash_; }
  std::vector<std::size_t> calls;

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
