// The published trainings: our configurations against detectron2's resolved ones, value by value.

#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "base/error.hpp"
#include "config/settings.hpp"
#include "support/fixtures.hpp"

namespace divergen::config {
namespace {

/// Scalars of a YAML file by dotted path, and lists of scalars as their elements joined with spaces. Enough for what
/// yaml.dump writes of nested maps; lists of lists and anchors are left out.
std::map<std::string, std::string> read_yaml(const Path& file) {
  std::map<std::string, std::string> out;
  std::vector<std::pair<std::size_t, std::string>> path;
  std::istringstream in(read_file(file));
  for (std::string line; std::getline(in, line);) {
    const std::size_t indent = line.find_first_not_of(' ');
    if (indent == std::string::npos) continue;
    const std::string text = line.substr(indent);
    if (text.starts_with("- ")) {  // an element of the key above, which stands no deeper than it
      while (!path.empty() && path.back().first > indent) path.pop_back();
      if (path.empty() || path.back().first < indent) continue;  // an element of an element
      std::string key;
      for (const auto& [at, name] : path) key += (key.empty() ? "" : ".") + name;
      out[key] += (out[key].empty() ? "" : " ") + text.substr(2);
      continue;
    }
    while (!path.empty() && path.back().first >= indent) path.pop_back();
    const std::size_t colon = text.find(':');
    if (colon == std::string::npos) continue;
    path.emplace_back(indent, text.substr(0, colon));
    std::string key;
    for (const auto& [at, name] : path) key += (key.empty() ? "" : ".") + name;
    if (colon + 2 < text.size()) out[key] = text.substr(colon + 2);
  }
  return out;
}

struct Recipe {
  const char *name, *resolved;
  const char* training;
  bool has_pool;
  std::int64_t iterations, batch;  // what the recipe's own file says over the resolved one
  double lr, ema;
};

class recipes : public testing::TestWithParam<Recipe> {
 protected:
  RunConfig config = read_run_config(Path(DIVERGEN_SOURCE_DIR) / "configs" / (std::string(GetParam().name) + ".toml"));
  std::map<std::string, std::string> yaml =
      read_yaml(Path(DIVERGEN_SOURCE_DIR) / "tests" / "fixtures" / "detector" / GetParam().resolved);
  const std::string& text(const std::string& key) const {
    const auto found = yaml.find(key);
    if (found == yaml.end()) throw std::runtime_error("the resolved configuration has no " + key);
    return found->second;
  }
  double number(const std::string& key) const { return std::stod(text(key)); }
};

}  // namespace

TEST_P(recipes, DetectorIsThePublishedOne) {
  const DetectorSettings& d = config.detector;
  const std::string backbone = text("MODEL.BACKBONE.NAME");
  EXPECT_EQ(d.backbone, backbone.find("swin") != std::string::npos ? "swin" : "resnet");
  EXPECT_EQ(d.backbone_weights.stem().string(), Path(text("MODEL.WEIGHTS")).stem().string());
  if (d.backbone == "swin") {
    EXPECT_EQ(text("MODEL.SWIN.SIZE"), "L-22k-384");  // sizes: reference/detector.md §2a
    EXPECT_EQ(d.depths, (std::vector<std::int64_t>{2, 2, 18, 2}));
    EXPECT_EQ(d.swin_heads, (std::vector<std::int64_t>{6, 12, 24, 48}));
    EXPECT_EQ(d.swin_width, 192);
    EXPECT_EQ(d.swin_window, 12);
    EXPECT_EQ(d.drop_path, 0.3);
  } else {
    EXPECT_EQ(text("MODEL.TIMM.BASE_NAME"), "resnet50_in21k");
    EXPECT_EQ(d.depths, (std::vector<std::int64_t>{3, 4, 6, 3}));
  }
  EXPECT_EQ(d.fpn_channels, number("MODEL.FPN.OUT_CHANNELS"));
  EXPECT_EQ(d.tower_convs, number("MODEL.CENTERNET.NUM_BOX_CONVS"));
  EXPECT_EQ(d.pre_nms_train, number("MODEL.CENTERNET.PRE_NMS_TOPK_TRAIN"));
  EXPECT_EQ(d.post_nms_train, number("MODEL.CENTERNET.POST_NMS_TOPK_TRAIN"));
  EXPECT_EQ(d.pre_nms_test, number("MODEL.CENTERNET.PRE_NMS_TOPK_TEST"));
  EXPECT_EQ(d.post_nms_test, number("MODEL.CENTERNET.POST_NMS_TOPK_TEST"));
  EXPECT_EQ(d.box_fc, number("MODEL.ROI_BOX_HEAD.FC_DIM"));
  EXPECT_EQ(d.mask_channels, number("MODEL.ROI_MASK_HEAD.CONV_DIM"));
  EXPECT_EQ(d.mask_convs, number("MODEL.ROI_MASK_HEAD.NUM_CONV"));
  EXPECT_EQ(d.roi_batch, number("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"));
  EXPECT_EQ(d.roi_foreground, number("MODEL.ROI_HEADS.POSITIVE_FRACTION"));
  EXPECT_EQ(d.fed_categories, number("MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CAT"));
  EXPECT_EQ(d.fed_power, number("MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT"));
  EXPECT_EQ(d.score_threshold, number("MODEL.ROI_HEADS.SCORE_THRESH_TEST"));
  EXPECT_EQ(d.nms_threshold, number("MODEL.ROI_HEADS.NMS_THRESH_TEST"));
  EXPECT_EQ(d.detections_per_image, number("TEST.DETECTIONS_PER_IMAGE"));
}

TEST_P(recipes, TrainingIsThePublishedOne) {
  ASSERT_EQ(config.trainings.size(), 1U);
  const TrainSettings& t = config.trainings.front();
  EXPECT_EQ(t.name, GetParam().training);
  EXPECT_EQ(t.use_pool, GetParam().has_pool);
  EXPECT_EQ(text("SOLVER.OPTIMIZER"), "ADAMW");
  EXPECT_EQ(text("SOLVER.LR_SCHEDULER_NAME"), "WarmupCosineLR");
  EXPECT_EQ(text("SOLVER.CLIP_GRADIENTS.CLIP_TYPE"), "value");
  EXPECT_EQ(text("FP16"), "true");
  EXPECT_EQ(t.precision, "fp16");
  // reference/detector.md §1; nothing can be pasted as polygons, so that X-Paste's is not its base's.
  EXPECT_EQ(t.mask_format, t.use_pool ? "bitmask" : "polygon");
  EXPECT_EQ(t.iterations, GetParam().iterations);
  EXPECT_EQ(t.batch, GetParam().batch);
  EXPECT_EQ(t.lr, GetParam().lr);
  EXPECT_EQ(t.ema, GetParam().ema);
  if (t.name != std::string("xpaste")) {  // which has values of its own over these
    EXPECT_EQ(t.iterations, number("SOLVER.MAX_ITER"));
    EXPECT_EQ(t.batch, number("SOLVER.IMS_PER_BATCH"));
    EXPECT_EQ(t.lr, number("SOLVER.BASE_LR"));
    EXPECT_EQ(t.ema, number("SOLVER.MODEL_EMA"));
    EXPECT_EQ(t.checkpoint_every, number("SOLVER.CHECKPOINT_PERIOD"));
  }
  EXPECT_EQ(t.warmup, number("SOLVER.WARMUP_ITERS"));
  EXPECT_EQ(t.warmup_factor, number("SOLVER.WARMUP_FACTOR"));
  EXPECT_EQ(t.weight_decay, number("SOLVER.WEIGHT_DECAY"));
  EXPECT_EQ(t.clip_value, number("SOLVER.CLIP_GRADIENTS.CLIP_VALUE"));
  EXPECT_EQ(t.backbone_lr, number("SOLVER.BACKBONE_MULTIPLIER"));
  EXPECT_TRUE(t.init.empty());
}

TEST_P(recipes, PicturesAreMadeAsPublished) {
  const AugmentSettings& a = config.augment;
  EXPECT_EQ(text("INPUT.CUSTOM_AUG"), "EfficientDetResizeCrop");
  EXPECT_EQ(a.train_size, number("INPUT.TRAIN_SIZE"));
  EXPECT_EQ(a.scale_low, 0.1);  // INPUT.SCALE_RANGE is an alias of this list
  EXPECT_EQ(a.scale_high, 2.0);
  EXPECT_EQ(text("INPUT.RANDOM_FLIP"), "horizontal");
  EXPECT_EQ(a.flip, 0.5);
  EXPECT_EQ(text("DATALOADER.SAMPLER_TRAIN"), "RepeatFactorTrainingSampler");
  EXPECT_EQ(a.repeat_threshold, number("DATALOADER.REPEAT_THRESHOLD"));
  EXPECT_EQ(a.aspect_grouping, text("DATALOADER.ASPECT_RATIO_GROUPING") == "true");
  if (GetParam().has_pool && text("INPUT.INST_POOL") == "true") {
    EXPECT_EQ(text("INPUT.INST_POOL_SAMPLE_TYPE"), "cas_random");
    EXPECT_EQ(a.instance_draw, "category");
    EXPECT_EQ(a.max_instances, number("INPUT.INST_POOL_MAX_SAMPLES"));
    EXPECT_EQ(text("INPUT.CP_METHOD"), "basic");
    EXPECT_EQ(a.blend, std::vector<std::string>{"basic"});
    EXPECT_EQ(a.random_scale, text("INPUT.RANDOM_SCALE") == "true");
    EXPECT_EQ(a.random_scale_low, number("INPUT.RANDOM_SCALE_MIN"));
    EXPECT_EQ(a.random_scale_high, number("INPUT.RANDOM_SCALE_MAX"));
    EXPECT_EQ(a.random_scale_min_size, number("INPUT.RANDOM_SCALE_MIN_SIZE"));
  }
  EXPECT_EQ(config.evaluate.short_side, number("INPUT.MIN_SIZE_TEST"));
  EXPECT_EQ(config.evaluate.long_side, number("INPUT.MAX_SIZE_TEST"));
  EXPECT_TRUE(config.evaluate.use_ema);
}

TEST_P(recipes, CategoriesAreThePublishedOnes) {
  const Path categories = Path(DIVERGEN_SOURCE_DIR) / config.data.categories;
  const auto list = test::fixture_json(categories);
  // Only DiverGen's own configuration has more than LVIS's.
  const bool has_extra = GetParam().name == std::string("divergen_swinL");
  ASSERT_EQ(list.size(), has_extra ? number("MODEL.ROI_HEADS.NUM_CLASSES") : 1203);
  for (const auto& category : list)
    EXPECT_EQ(category.value("role", "eval"), category.at("id").get<int>() > 1203 ? "extra" : "eval");
  EXPECT_TRUE(std::filesystem::exists(Path(DIVERGEN_SOURCE_DIR) / config.data.area_stats));
}

INSTANTIATE_TEST_SUITE_P(
    of, recipes,
    testing::Values(Recipe{"divergen_swinL", "cfg_full_swinL.yaml", "divergen", true, 180000, 16, 1e-4, 0.999},
                    Recipe{"baseline_swinL", "cfg_full_swinL.yaml", "baseline", false, 180000, 16, 1e-4, 0.999},
                    Recipe{"xpaste_swinL", "cfg_full_swinL.yaml", "xpaste", true, 180000, 16, 1e-4, 0.999},
                    Recipe{"xpaste_r50", "cfg_full_r50.yaml", "xpaste", true, 180000, 64, 1e-4, 0.999},
                    Recipe{"baseline_r50", "cfg_full_r50.yaml", "baseline", false, 90000, 64, 2e-4, 0.0}),
    [](const auto& recipe) { return std::string(recipe.param.name); });

}  // namespace divergen::config
