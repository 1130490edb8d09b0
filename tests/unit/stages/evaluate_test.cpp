// Parts of the evaluate and train stages that need no ranks: sizes, batches, run lengths in boxes, part files, weights
// of extra categories, TensorBoard records.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "image/draw.hpp"
#include "nn/tensor_io.hpp"
#include "stages/evaluate/batches.hpp"
#include "stages/evaluate/detections.hpp"
#include "stages/evaluate/parts.hpp"
#include "stages/evaluate/pictures.hpp"
#include "stages/evaluate/results.hpp"
#include "stages/evaluate/runner.hpp"
#include "stages/train/tensorboard.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

lvis::Dataset images_of(const std::vector<std::array<std::int32_t, 2>>& sizes) {
  lvis::Dataset out;
  out.categories = {{1, "a", "r", 1}, {2, "b", "f", 9}};
  for (std::size_t i = 0; i < sizes.size(); ++i)
    out.images.push_back({static_cast<std::int64_t>(i) + 40, sizes[i][0], sizes[i][1], "x.png", true, {}, {}});
  out.rebuild_indices();
  return out;
}

config::DetectorSettings small_detector() {
  config::DetectorSettings d;
  d.depths = {1, 1, 1, 1};
  d.stem_channels = 8;
  d.base_width = 4;
  d.fpn_channels = 8;
  d.tower_convs = 1;
  d.group_norm_groups = 4;
  d.box_fc = 8;
  d.mask_channels = 8;
  d.mask_convs = 1;
  d.pre_nms_test = 50;
  d.post_nms_test = 20;
  d.score_threshold = 0;
  return d;
}

class Files : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / cat("divergen-evaluate-", ::getpid());
    make_folder(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  Path folder_;
};
using EvaluateFiles = Files;

}  // namespace

TEST(Evaluate, ResizesAsDetectron2) {
  const auto rows = nlohmann::json::parse(read_file(test::fixtures("detector") / "ops.json")).at("shortest_edge");
  ASSERT_GT(rows.size(), 5u);
  for (const auto& row : rows) {
    const auto [h, w] = shortest_edge(row[0], row[1], 800, 1333);

    EXPECT_EQ(h, row[2].get<std::int64_t>()) << row;
    EXPECT_EQ(w, row[3].get<std::int64_t>()) << row;
  }
}

TEST(Evaluate, BatchesHaveOnePaddedSizeAndEveryImageOnce) {
  const lvis::Dataset dataset = images_of({{64, 64}, {64, 96}, {64, 64}, {64, 65}, {64, 64}, {96, 64}, {64, 70}});
  config::EvaluateSettings settings;
  settings.short_side = 64;
  settings.long_side = 128;
  settings.batch = 2;

  const auto batches = make_batches(dataset, settings);

  const std::vector<std::vector<std::size_t>> expected{{0, 2}, {1, 3}, {4}, {5}, {6}};
  EXPECT_EQ(batches, expected);
}

TEST(Evaluate, EncodesInABoxAsOverTheWholePicture) {
  Rng rng(9);
  for (int round = 0; round < 300; ++round) {
    const auto height = rng.range(1, 14), width = rng.range(1, 14);
    const auto x0 = rng.range(-2, width + 1), y0 = rng.range(-2, height + 1);
    const auto x1 = x0 + rng.range(0, 14), y1 = y0 + rng.range(0, 14);
    std::vector<std::uint8_t> bitmap(static_cast<std::size_t>(height * width));
    for (auto y = std::max<std::int64_t>(y0, 0); y < std::min(y1, height); ++y)
      for (auto x = std::max<std::int64_t>(x0, 0); x < std::min(x1, width); ++x)
        bitmap[static_cast<std::size_t>(y * width + x)] = rng.chance(0.7) ? 1 : 0;

    const mask::Rle rle = encode_in_box(bitmap.data(), height, width, x0, y0, x1, y1);

    ASSERT_EQ(rle, mask::encode(bitmap, height, width)) << round;
  }
}

TEST_F(EvaluateFiles, PartsReadBackAndAreRefusedForAnotherModel) {
  const lvis::Dataset dataset = images_of({{4, 5}, {6, 3}, {2, 2}});
  DetectionPart part;
  part.images = {40, 41, 42};
  part.rejected["unreadable_image"] = {42};
  std::vector<std::uint8_t> bitmap(20, 0);
  bitmap[7] = bitmap[8] = 1;
  lvis::Detection d{40, 2, 0.1f, {1.25f, 0.1f, 3, 2}, 2, mask::encode(bitmap, 4, 5)};
  part.detections = {d};
  const Path file = folder_ / "part-00000000.h5";

  write_part(file, part, dataset, "mine");
  const DetectionPart read = read_part(file, dataset, "mine");

  EXPECT_EQ(read.images, part.images);
  EXPECT_EQ(read.rejected, part.rejected);
  ASSERT_EQ(read.detections.size(), 1u);
  EXPECT_EQ(read.detections[0].score, d.score);
  EXPECT_EQ(read.detections[0].box, d.box);
  EXPECT_EQ(read.detections[0].rle, d.rle);
  EXPECT_EQ(read.detections[0].area, 2);
  EXPECT_THROW(read_part(file, dataset, "another"), Error);
}

TEST_F(EvaluateFiles, PartsWithoutDetectionsReadBack) {
  const lvis::Dataset dataset = images_of({{4, 5}});
  DetectionPart part;
  part.images = {40};

  write_part(folder_ / "part.h5", part, dataset, "mine");

  EXPECT_EQ(read_part(folder_ / "part.h5", dataset, "mine").images, part.images);
}

TEST_F(EvaluateFiles, ResultsReadBackToTheLastBit) {
  const lvis::Dataset dataset = images_of({{40, 50}, {60, 30}});
  Rng rng(3);
  std::vector<lvis::Detection> all;
  for (int i = 0; i < 40; ++i) {
    const auto& image = dataset.images[static_cast<std::size_t>(i / 20)];
    std::vector<std::uint8_t> bitmap(static_cast<std::size_t>(image.height * image.width));
    for (auto& pixel : bitmap) pixel = rng.chance(0.5) ? 1 : 0;
    all.push_back({image.id,
                   1 + i % 2,
                   static_cast<float>(rng.uniform()),
                   {static_cast<float>(rng.uniform(0, 9)), static_cast<float>(rng.uniform(0, 9)), 3.3f, 1e-7f},
                   0,
                   mask::encode(bitmap, image.height, image.width)});
  }
  for (const auto type : {lvis::IouType::Box, lvis::IouType::Mask}) {
    GrowingFile file(folder_ / "results.json");
    file.write(cat(kBeforeResults, results_text(std::span(all).first(7), type)));
    file.write(cat(kBetweenResults, results_text(std::span(all).subspan(7), type), kAfterResults));
    file.commit();

    const auto read = lvis::read_results(folder_ / "results.json", dataset, type);

    ASSERT_EQ(read.size(), all.size());
    for (std::size_t i = 0; i < read.size(); ++i) {
      EXPECT_EQ(read[i].score, all[i].score);
      if (type == lvis::IouType::Box) {
        EXPECT_EQ(read[i].box, all[i].box);
        EXPECT_EQ(read[i].area, all[i].box[2] * all[i].box[3]);
      } else {
        EXPECT_EQ(read[i].rle, all[i].rle);
        EXPECT_EQ(read[i].area, static_cast<double>(mask::area(all[i].rle)));
      }
    }
  }
}

TEST_F(EvaluateFiles, ExtraClassesAreCutFromTheClassifiers) {
  ClassMap classes;
  classes.category_of = {5, 8, 9, 90, 91};  // three evaluated, two extra
  classes.image_counts = {1, 10, 100, 50, 60};
  classes.evaluated = 3;
  models::CenterNet2 whole(small_detector(), classes.image_counts);
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU).clone();
  generator.set_current_seed(4);
  models::init_detector(whole, small_detector(), generator);
  for (const auto& entry : whole.named_tensors()) {  // scores that differ between classes
    if (entry.name.find("cls_score.bias") == std::string::npos) continue;
    at::NoGradGuard no_grad;
    at::Tensor(entry.tensor).copy_(at::linspace(-1, 1, 6));
  }
  whole.eval();
  nn::save_module(whole, folder_ / "model.safetensors", at::kFloat);

  const auto cut = load_evaluated_detector(small_detector(), classes, folder_ / "model.safetensors");

  EXPECT_EQ(cut->num_classes(), 3);
  const std::vector<at::Tensor> images{at::randint(0, 255, {3, 64, 64}, at::kByte)};
  const std::vector<std::array<std::int64_t, 2>> sizes{{64, 64}};
  const auto all = whole.detect(images, sizes)[0], evaluated = cut->detect(images, sizes)[0];
  const at::Tensor rows = (all.classes < 3).nonzero().squeeze(1);
  ASSERT_GE(rows.numel(), 3);
  ASSERT_GT(all.scores.numel(), rows.numel());
  EXPECT_TRUE(at::equal(all.scores.index_select(0, rows), evaluated.scores));
  EXPECT_TRUE(at::equal(all.boxes.index_select(0, rows), evaluated.boxes));
  EXPECT_TRUE(at::equal(all.classes.index_select(0, rows), evaluated.classes));
}

TEST(Evaluate, ChoosesPicturesWithRareCategoriesFirst) {
  lvis::Dataset dataset = images_of(std::vector<std::array<std::int32_t, 2>>(30, {8, 8}));
  for (std::int64_t i = 0; i < 29; ++i) {
    lvis::Annotation a;
    a.id = i + 1;
    a.image_id = 40 + i;
    a.category_id = i == 13 || i == 21 ? 1 : 2;
    dataset.annotations.push_back(a);
  }

  const auto chosen = choose_pictures(dataset, 10);

  EXPECT_EQ(chosen.size(), 10u);
  EXPECT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
  EXPECT_EQ(std::adjacent_find(chosen.begin(), chosen.end()), chosen.end());
  EXPECT_TRUE(std::count(chosen.begin(), chosen.end(), 13u) == 1 && std::count(chosen.begin(), chosen.end(), 21u) == 1);
  EXPECT_EQ(std::count(chosen.begin(), chosen.end(), 29u), 0);  // nothing is annotated there
}

TEST(Draw, OutlinesAreTheBorderOfTheMask) {
  image::Image picture(6, 7, 3, 10), mask(4, 4, 1, 1);

  image::draw_outline(picture, mask, 2, 1, {200, 0, 0});

  int coloured = 0;
  for (int y = 0; y < 6; ++y)
    for (int x = 0; x < 7; ++x) coloured += *picture.at(y, x) == 200 ? 1 : 0;
  EXPECT_EQ(coloured, 12);
  EXPECT_EQ(*picture.at(2, 3), 10);  // inside
  EXPECT_EQ(*picture.at(1, 2), 200);
}

TEST(Tensorboard, ChecksumAndRecordAreThoseOfTheFormat) {
  // RFC 3720, appendix B.4: 32 bytes of zeros, of ones; and the usual check string.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);

  const std::string record = tf_record("abc");

  ASSERT_EQ(record.size(), 8u + 4 + 3 + 4);
  EXPECT_EQ(record.substr(0, 8), std::string("\3\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(12, 3), "abc");
}

}  // namespace divergen::stages
