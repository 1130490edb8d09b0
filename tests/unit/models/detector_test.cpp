// The detector without a reference: it learns, is saved and loaded, begins from weights files, stands awkward batches.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "base/error.hpp"
#include "models/detector/backbone.hpp"
#include "models/detector/centernet2.hpp"
#include "models/detector/mask_targets.hpp"
#include "models/detector/roi_heads.hpp"
#include "nn/adamw.hpp"
#include "nn/tensor_io.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

config::DetectorSettings small_settings() {
  config::DetectorSettings s;
  s.depths = {1, 1, 1, 1};
  s.stem_channels = 8;
  s.base_width = 4;
  s.backbone_classes = 3;
  s.swin_width = 16;
  s.swin_heads = {1, 2, 2, 4};
  s.swin_window = 4;
  s.drop_path = 0.05;
  s.fpn_channels = 16;
  s.tower_convs = 1;
  s.group_norm_groups = 4;
  s.box_fc = 32;
  s.mask_channels = 16;
  s.mask_convs = 1;
  s.roi_batch = 32;
  s.fed_categories = 4;
  return s;
}

const std::vector<double> kCounts{10, 3, 1};

at::Generator seeded(std::uint64_t seed) { return at::detail::createCPUGenerator(seed); }

std::unique_ptr<CenterNet2> small_detector(const config::DetectorSettings& settings = small_settings(),
                                           std::uint64_t seed = 7) {
  auto detector = std::make_unique<CenterNet2>(settings, kCounts);
  at::Generator generator = seeded(seed);
  init_detector(*detector, settings, generator);
  return detector;
}

/// A bright rectangle of one colour for its class on noise.
DetectorSample scene(std::int64_t height, std::int64_t width, std::vector<std::array<std::int64_t, 5>> objects) {
  at::Generator generator = seeded(static_cast<std::uint64_t>(height * 1000 + width));
  DetectorSample s;
  s.image = at::randint(60, {3, height, width}, generator, at::kByte);
  const auto n = static_cast<std::int64_t>(objects.size());
  s.truth.boxes = at::zeros({n, 4});
  s.truth.classes = at::zeros({n}, at::kLong);
  s.truth.masks = at::zeros({n, height, width}, at::kBool);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto [x0, y0, x1, y1, label] = objects[static_cast<std::size_t>(i)];
    for (int j = 0; j < 4; ++j)
      s.truth.boxes[i][j] = static_cast<double>(objects[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]);
    s.truth.classes[i] = label;
    s.truth.masks[i].slice(0, y0, y1).slice(1, x0, x1).fill_(1);
    s.image[label].slice(0, y0, y1).slice(1, x0, x1).fill_(250);
  }
  return s;
}

at::Tensor total(const std::map<std::string, at::Tensor>& losses) {
  at::Tensor sum;
  for (const auto& [name, loss] : losses) sum = sum.defined() ? sum + loss : loss;
  return sum;
}

std::vector<DetectorSample> scenes() {
  return {scene(64, 64, {{8, 8, 40, 40, 0}}), scene(64, 96, {{50, 10, 90, 50, 1}, {4, 20, 36, 60, 2}}),
          scene(50, 70, {{20, 10, 60, 44, 0}}), scene(64, 64, {})};
}

std::vector<at::Tensor> images_of(const std::vector<DetectorSample>& batch) {
  std::vector<at::Tensor> images;
  for (const DetectorSample& s : batch) images.push_back(s.image);
  return images;
}

class detector_of : public testing::TestWithParam<const char*> {};

}  // namespace

TEST_P(detector_of, LearnsAFewScenes) {
  config::DetectorSettings settings = small_settings();
  settings.backbone = GetParam();
  const auto detector = small_detector(settings);
  // The second backbone with what the first does not have: blocks that are computed twice, dropped branches.
  detector->backbone().set_compute({.checkpointing = true, .channels_last = true});
  detector->train();
  const auto batch = scenes();
  const auto images = images_of(batch);
  calibrate_norms(*detector, images);
  detector->requires_grad(true);
  nn::AdamW optimizer(detector->named_parameters(), {.clip_value = 1.0});
  at::Generator generator = seeded(1);
  constexpr int kSteps = 120;
  for (int step = 0; step < kSteps; ++step) {
    optimizer.zero_grad();
    const at::Tensor loss = total(detector->losses(batch, generator, {}));
    ASSERT_TRUE(std::isfinite(loss.item<double>())) << "step " << step;
    loss.backward();
    optimizer.step(3e-3);
  }
  std::vector<std::array<std::int64_t, 2>> sizes;
  for (const at::Tensor& image : images) sizes.push_back({image.size(1), image.size(2)});
  detector->eval();
  const auto found = detector->detect(images, sizes);
  for (std::size_t i = 0; i + 1 < batch.size(); ++i) {  // every object is found, and best of its class
    const DetectorTruth& truth = batch[i].truth;
    for (std::int64_t g = 0; g < truth.boxes.size(0); ++g) {
      const at::Tensor rows = found[i].classes.eq(truth.classes[g]).nonzero().squeeze(1);
      ASSERT_GT(rows.numel(), 0) << "picture " << i << " object " << g;
      const std::int64_t best = rows[0].item<std::int64_t>();
      EXPECT_GT(box_iou(found[i].boxes.narrow(0, best, 1), truth.boxes.narrow(0, g, 1)).item<double>(), 0.6);
      const at::Tensor both = found[i].masks[best].logical_and(truth.masks[g]).sum(),
                       either = found[i].masks[best].logical_or(truth.masks[g]).sum();
      EXPECT_GT(both.item<double>() / either.item<double>(), 0.6);
    }
  }
}

TEST(detector, ResultsHaveTheRequestedSizes) {
  const auto detector = small_detector();
  const std::vector<at::Tensor> images = images_of(scenes());
  const std::vector<std::array<std::int64_t, 2>> sizes{{128, 128}, {30, 45}, {50, 70}, {64, 64}};
  const auto out = detector->detect(images, sizes);
  ASSERT_EQ(out.size(), images.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::int64_t n = out[i].boxes.size(0);
    EXPECT_EQ(out[i].masks.sizes(), at::IntArrayRef({n, sizes[i][0], sizes[i][1]}));
    EXPECT_EQ(out[i].masks.scalar_type(), at::kBool);
    EXPECT_EQ(out[i].scores.size(0), n);
    EXPECT_EQ(out[i].classes.size(0), n);
    if (n == 0) continue;
    EXPECT_GE(out[i].boxes.min().item<double>(), 0.0);
    EXPECT_LE(out[i].boxes.select(1, 2).max().item<double>(), static_cast<double>(sizes[i][1]));
    EXPECT_LE(out[i].boxes.select(1, 3).max().item<double>(), static_cast<double>(sizes[i][0]));
    EXPECT_TRUE(out[i].scores.slice(0, 1).le(out[i].scores.slice(0, 0, n - 1)).all().item<bool>());
  }
}

TEST(detector, BatchesWithoutObjectsTrain) {
  const auto detector = small_detector();
  detector->requires_grad(true);
  at::Generator generator = seeded(3);
  const std::vector<DetectorSample> batch{scene(64, 64, {}), scene(40, 64, {})};
  const auto losses = detector->losses(batch, generator, {});
  EXPECT_EQ(losses.size(), 10U);
  EXPECT_EQ(losses.at("loss_mask").item<double>(), 0.0);
  EXPECT_EQ(losses.at("loss_box_reg_stage0").item<double>(), 0.0);
  EXPECT_EQ(losses.at("loss_centernet_agn_pos").item<double>(), 0.0);
  total(losses).backward();
  // Every parameter but the classifier that is never used takes part, so that ranks always reduce the same ones.
  for (const nn::NamedTensor& p : detector->named_parameters()) {
    const bool used = p.name.find(".fc.") == std::string::npos;
    EXPECT_EQ(p.tensor.grad().defined(), used) << p.name;
    if (used) {
      EXPECT_TRUE(p.tensor.grad().isfinite().all().item<bool>()) << p.name;
    }
  }
}

TEST(detector, SameSeedSameLosses) {
  const auto a = small_detector(), b = small_detector(), other = small_detector(small_settings(), 8);
  const auto batch = scenes();
  const auto value = [&](const CenterNet2& detector) {
    at::NoGradGuard no_grad;
    at::Generator generator = seeded(5);
    return total(detector.losses(batch, generator, {})).item<double>();
  };
  EXPECT_EQ(value(*a), value(*b));
  EXPECT_NE(value(*a), value(*other));
}

TEST(detector, IsSavedAndLoadedWhole) {
  const test::TemporaryFolder folder;
  const auto saved = small_detector();
  nn::save_module(*saved, folder / "detector.safetensors", at::kFloat);
  const auto loaded = small_detector(small_settings(), 8);
  nn::load_module(*loaded, folder / "detector.safetensors");
  const auto ours = loaded->named_tensors(), theirs = saved->named_tensors();
  for (std::size_t i = 0; i < ours.size(); ++i)
    EXPECT_TRUE(at::equal(ours[i].tensor, theirs[i].tensor)) << ours[i].name;
  const weights::SafetensorsFile file(folder / "detector.safetensors");
  for (const auto& info : file.tensors()) EXPECT_FALSE(info.name.starts_with("pixel_")) << "not part of a checkpoint";
}

TEST(detector, StartsAsTheReferenceDoes) {
  const auto detector = small_detector();
  std::map<std::string, at::Tensor> t;
  for (const nn::NamedTensor& entry : detector->named_tensors()) {
    EXPECT_TRUE(entry.tensor.isfinite().all().item<bool>()) << entry.name;
    t[entry.name] = entry.tensor;
  }
  EXPECT_TRUE(t.at("roi_heads.box_predictor.1.cls_score.bias").sub(-4.59512).abs().max().item<double>() < 1e-4);
  EXPECT_EQ(t.at("proposal_generator.centernet_head.bbox_pred.bias").min().item<double>(), 8.0);
  EXPECT_NEAR(t.at("proposal_generator.centernet_head.agn_hm.bias").item<double>(), -std::log(99.0), 1e-5);
  EXPECT_NEAR(t.at("roi_heads.box_predictor.0.cls_score.weight").std().item<double>(), 0.01, 2e-3);
  EXPECT_NEAR(t.at("backbone.bottom_up.base.conv1.weight").std().item<double>(), std::sqrt(2.0 / (8 * 49)), 5e-3);
  for (std::size_t i = 0; i < kCounts.size(); ++i)
    EXPECT_FLOAT_EQ(t.at("roi_heads.box_predictor.2.freq_weight")[static_cast<std::int64_t>(i)].item<float>(),
                    static_cast<float>(std::sqrt(kCounts[i])));
}

TEST(detector, TakesBackboneWeightsByTheEndOfTheirNames) {
  const test::TemporaryFolder folder;
  const auto source = small_detector(small_settings(), 11);
  constexpr std::string_view kPrefix = "backbone.bottom_up.base.";
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const nn::NamedTensor& t : source->named_tensors())
    if (t.name.starts_with(kPrefix) && !t.name.ends_with("num_batches_tracked"))
      tensors.emplace_back(t.name.substr(kPrefix.size()), t.name.ends_with("fc.weight") ? at::zeros({2, 2}) : t.tensor);
  nn::save_tensors(folder / "backbone.safetensors", tensors);

  config::DetectorSettings settings = small_settings();
  settings.backbone_weights = folder / "backbone.safetensors";
  const auto detector = small_detector(settings);
  const auto ours = detector->named_tensors(), theirs = source->named_tensors();
  for (std::size_t i = 0; i < ours.size(); ++i)
    if (ours[i].name.starts_with(kPrefix) && ours[i].name.find("fc.weight") == std::string::npos) {
      EXPECT_TRUE(at::equal(ours[i].tensor, theirs[i].tensor)) << ours[i].name;
    }

  std::erase_if(tensors, [](const auto& t) { return t.first == "layer3.0.conv2.weight"; });
  nn::save_tensors(folder / "backbone.safetensors", tensors);
  try {
    small_detector(settings);
    FAIL() << "a missing tensor was not noticed";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::Data);
    EXPECT_NE(std::string(e.what()).find("layer3.0.conv2.weight"), std::string::npos) << e.what();
  }
}

TEST(detector, CalibrationNormalisesEveryMap) {
  const auto detector = small_detector();
  const std::vector<at::Tensor> images = images_of(scenes());
  calibrate_norms(*detector, images);
  for (const at::Tensor& level : detector->backbone().bottom_up().forward(detector->prepare(images))) {
    EXPECT_GT(level.std().item<double>(), 0.2);
    EXPECT_LT(level.std().item<double>(), 4.0);
  }
}

TEST(detector, MaskTargetsOfPolygonsAndBitmapsAgree) {
  const DetectorSample s = scene(64, 64, {{8, 8, 40, 40, 0}, {20, 30, 60, 60, 1}});
  DetectorTruth polygons = s.truth;
  polygons.masks = at::Tensor();
  polygons.polygons = {{{8, 8, 40, 8, 40, 40, 8, 40}}, {{20, 30, 60, 30, 60, 60, 20, 60}}};
  const at::Tensor objects = at::tensor({1, 0, 1}, at::kLong);
  const at::Tensor boxes =
      at::tensor({10., 20., 50., 64., 0., 0., 30., 30., 20., 30., 60., 60.}, at::kFloat).view({3, 4});
  const at::Tensor a = mask_targets(s.truth, objects, boxes), b = mask_targets(polygons, objects, boxes);
  EXPECT_EQ(a.sizes(), at::IntArrayRef({3, kMaskSide, kMaskSide}));
  EXPECT_LE(a.ne(b).sum().item<std::int64_t>(), 3 * 2 * kMaskSide);  // the two rules differ by a row or column at most
  EXPECT_GT(a[2].to(at::kFloat).mean().item<double>(), 0.95);
}

TEST(detector, UnknownBackboneIsRefused) {
  config::DetectorSettings settings = small_settings();
  settings.backbone = "vgg";
  EXPECT_THROW(CenterNet2(settings, kCounts), Error);
}

INSTANTIATE_TEST_SUITE_P(backbone, detector_of, testing::Values("resnet", "swin"),
                         [](const auto& backbone) { return std::string(backbone.param); });

}  // namespace divergen::models
