// Real crops against DiverGen's convert_lvis_to_coco_crop.py: masks, boxes, blurred surroundings, bit for bit.

#include <gtest/gtest.h>

#include <cstring>

#include "stages/filter/real_crops.hpp"
#include "support/fixtures.hpp"
#include "weights/safetensors.hpp"

namespace divergen::stages {
namespace {

class crop : public testing::Test {
 protected:
  crop()
      : cases(test::fixture_json(test::fixtures("augment") / "crop.json")),
        tensors(test::fixtures("augment") / "crop.safetensors") {
    const Path file = folder / "lvis.json";
    write_file_atomic(file, cases.at("lvis_json").dump());
    dataset = lvis::read_dataset(file);
  }
  /// uint8 [height, width] or [height, width, channels].
  image::Image picture(const std::string& name) const {
    const weights::TensorInfo* info = tensors.find(name);
    if (info == nullptr) return {};
    image::Image out(static_cast<int>(info->shape[0]), static_cast<int>(info->shape[1]),
                     info->shape.size() == 3 ? static_cast<int>(info->shape[2]) : 1);
    std::memcpy(out.pixels.data(), tensors.bytes(*info).data(), out.pixels.size());
    return out;
  }
  lvis::Annotation annotation(std::int64_t id) const {
    return *std::find_if(dataset.annotations.begin(), dataset.annotations.end(),
                         [&](const lvis::Annotation& a) { return a.id == id; });
  }

  nlohmann::json cases;
  weights::SafetensorsFile tensors;
  test::TemporaryFolder folder;
  lvis::Dataset dataset;
};

constexpr std::int64_t kPadding = 40;  // px, of DiverGen's README

}  // namespace

TEST_F(crop, MasksAreThePolygons) {
  for (const auto& one : cases.at("cases")) {
    const auto id = one.at("annotation").get<std::int64_t>();
    const image::Image expected = picture(cat("ann", id, ".mask"));
    const auto ours = mask::decode(dataset.mask_of(annotation(id)));
    ASSERT_EQ(ours.size(), expected.pixels.size());
    std::size_t different = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) different += (ours[i] != 0) != (expected.pixels[i] != 0) ? 1 : 0;
    EXPECT_EQ(different, 0u) << "annotation " << id;
  }
}

TEST_F(crop, EqualsThePaddedBlurredCrops) {
  std::size_t made = 0;
  for (const auto& one : cases.at("cases")) {
    const auto& a = annotation(one.at("annotation").get<std::int64_t>());
    const mask::Rle mask = dataset.mask_of(a);
    const auto box = crop_box(mask, kPadding);
    ASSERT_EQ(box.has_value(), !one.at("padding_blur").is_null()) << "annotation " << a.id;
    if (!box) continue;
    const image::Image whole = picture(cat("image.", a.image_id));
    const std::string name = cat("ann", a.id, ".");
    EXPECT_EQ(filled_crop(whole, mask, *box, CropFill::None), picture(name + "padding_ori")) << a.id;
    const image::Image ours = filled_crop(whole, mask, *box, CropFill::Blur), expected = picture(name + "padding_blur");
    EXPECT_EQ(ours, expected) << "annotation " << a.id << " (" << one.at("note") << ")";
    EXPECT_NE(ours, picture(name + "padding_ori")) << "nothing was blurred";
    ++made;
  }
  EXPECT_GT(made, 0u);
}

TEST_F(crop, EqualsTheTightAndTheSquareOnes) {
  std::size_t tight = 0, square = 0;
  for (const auto& one : cases.at("cases")) {
    const auto& a = annotation(one.at("annotation").get<std::int64_t>());
    const mask::Rle mask = dataset.mask_of(a);
    const image::Image whole = picture(cat("image.", a.image_id));
    const auto box = crop_box(mask, 0);
    if (!one.at("tight_black").is_null()) {
      ASSERT_TRUE(box);
      EXPECT_EQ(filled_crop(whole, mask, *box, CropFill::Black), picture(cat("ann", a.id, ".tight_black"))) << a.id;
      ++tight;
    }
    if (!one.at("square_white").is_null()) {  // the reference cannot make a square of a grey picture
      ASSERT_TRUE(box);
      EXPECT_EQ(filled_crop(whole, mask, square_box(*box), CropFill::White), picture(cat("ann", a.id, ".square_white")))
          << a.id << " (" << one.at("note") << ")";
      ++square;
    }
  }
  EXPECT_GT(tight, square);
  EXPECT_GT(square, 0u);
}

}  // namespace divergen::stages
