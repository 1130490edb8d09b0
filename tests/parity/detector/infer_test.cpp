// Inference of the small detectors, step by step and as a whole, against detectron2 + CenterNet2 + DiverGen.

#include <gtest/gtest.h>

#include "detector_case.hpp"

namespace divergen::models {
namespace {

class detector_infer : public testing::TestWithParam<const char*> {
 protected:
  const DetectorCase& c() const { return case_; }
  testing::AssertionResult agrees(const std::string& key, const at::Tensor& ours) const {
    return c().agrees("infer", key, ours, expected.at(key));
  }
  std::vector<ImageSize> sizes(const char* key) const {
    return c().config.at("infer").at(key).get<std::vector<ImageSize>>();
  }
  /// The dumped inputs of the second stage.
  std::vector<at::Tensor> features() const {
    return {expected.at("p3"), expected.at("p4"), expected.at("p5"), expected.at("p6"), expected.at("p7")};
  }
  std::vector<Proposals> proposals() const {
    std::vector<Proposals> out;
    for (std::size_t i = 0; i < images.size(); ++i)
      out.push_back({expected.at(cat("proposal_boxes.", i)), expected.at(cat("proposal_scores.", i))});
    return out;
  }

 private:
  at::NoGradGuard no_grad_;
  DetectorCase case_{GetParam()};

 public:
  nn::TensorMap expected = case_.tensors("infer");
  std::vector<at::Tensor> images = images_of(expected);
};

}  // namespace

TEST_P(detector_infer, InputAndBackbone) {
  const at::Tensor input = c().detector->prepare(images);
  const auto padded = c().config.at("infer").at("padded").get<ImageSize>();
  EXPECT_EQ(input.sizes(), at::IntArrayRef({static_cast<std::int64_t>(images.size()), 3, padded[0], padded[1]}));
  const at::Tensor& corner = expected.at("input_tensor");
  EXPECT_TRUE(agrees("input_tensor", input.narrow(2, padded[0] - corner.size(2), corner.size(2))
                                         .narrow(3, padded[1] - corner.size(3), corner.size(3))));

  const BottomUp& bottom_up = c().detector->backbone().bottom_up();
  std::string name;  // of the maps: detectron2's
  if (const auto* resnet = dynamic_cast<const ResNet*>(&bottom_up)) {
    at::Tensor x = resnet->stem(input);
    EXPECT_TRUE(agrees("stem", x.narrow(0, 0, 1).narrow(1, 0, expected.at("stem").size(1))));
    x = resnet->stage(0, x);
    EXPECT_TRUE(agrees("layer1out", x.narrow(0, 0, 1)));
    name = "layer";
  } else {
    const auto& swin = dynamic_cast<const Swin&>(bottom_up);
    const Swin::Tokens tokens = swin.embed(input);
    EXPECT_TRUE(agrees("patch_embed", tokens.x.narrow(0, 0, 1).transpose(1, 2).reshape(
                                          {1, tokens.x.size(2), tokens.height, tokens.width})));
    EXPECT_TRUE(agrees("layer0.tokens", swin.stage(0, tokens)));
    name = "swin";
  }
  const auto maps = bottom_up.forward(input);
  const std::size_t first = name == "swin" ? 1 : 3;
  for (std::size_t i = 0; i < maps.size(); ++i) EXPECT_TRUE(agrees(cat(name, i + first), maps[i]));
  const auto levels = c().detector->backbone().pyramid(maps);
  for (std::size_t i = 0; i < levels.size(); ++i) EXPECT_TRUE(agrees(cat("p", i + 3), levels[i]));
}

TEST_P(detector_infer, ProposalHeadAndProposals) {
  CenterNetOutput output = c().detector->proposal_head().forward(features());
  for (std::size_t l = 0; l < output.heat.size(); ++l) {
    EXPECT_TRUE(agrees(cat("agn_hm.", l), output.heat[l]));
    EXPECT_TRUE(agrees(cat("reg.", l), output.regression[l]));
  }
  std::vector<at::Tensor> heat, regression;  // of the reference, for the same ties
  for (std::size_t l = 0; l < output.heat.size(); ++l) {
    heat.push_back(expected.at(cat("agn_hm.", l)).sigmoid());
    regression.push_back(expected.at(cat("reg.", l)));
  }
  const auto found = propose(heat, regression, grid_of(output), c().detector->inference_limits());
  for (std::size_t i = 0; i < images.size(); ++i) {
    EXPECT_TRUE(agrees(cat("proposal_boxes.", i), found[i].boxes));
    EXPECT_TRUE(agrees(cat("proposal_scores.", i), found[i].scores));
  }
}

TEST_P(detector_infer, CascadeMasksAndSuppression) {
  RoiTrace trace;
  const auto found = c().detector->roi_heads().detect(features(), proposals(), sizes("image_sizes"), &trace);
  ASSERT_EQ(trace.stages.size(), kCascadeStages);
  for (std::size_t k = 0; k < kCascadeStages; ++k) {
    const RoiTrace::Stage& stage = trace.stages[k];
    EXPECT_TRUE(agrees(cat("cls_logits.stage", k), stage.logits));
    EXPECT_TRUE(agrees(cat("box_deltas.stage", k), stage.deltas));
    for (std::size_t i = 0; k > 0 && i < images.size(); ++i)
      EXPECT_TRUE(agrees(cat("stage", k, "_boxes.", i),
                         of_image(stage.rois.boxes, stage.rois.image, static_cast<std::int64_t>(i))));
  }
  const at::Tensor& pooled = expected.at("roi_feat.stage0");
  const RoiSet& first = trace.stages[0].rois;
  const at::Tensor rois = at::cat({first.image.unsqueeze(1).to(at::kFloat), first.boxes}, 1);
  EXPECT_TRUE(agrees("roi_feat.stage0", pool_rois(std::vector<at::Tensor>{features()[0], features()[1], features()[2]},
                                                  rois.narrow(0, 0, pooled.size(0)), pooled.size(2))));
  for (std::size_t i = 0; i < images.size(); ++i) {
    EXPECT_TRUE(agrees(cat("final_boxes_pre_nms.", i), trace.final_boxes[i]));
    EXPECT_TRUE(agrees(cat("final_scores_pre_nms.", i), trace.final_scores[i]));
    EXPECT_TRUE(agrees(cat("det_raw_boxes.", i), found[i].found.boxes));
    EXPECT_TRUE(agrees(cat("det_raw_scores.", i), found[i].found.scores));
    EXPECT_TRUE(agrees(cat("det_raw_classes.", i), found[i].found.classes));
    EXPECT_TRUE(agrees(cat("det_raw_roi_index.", i), found[i].found.rows));
  }
  EXPECT_TRUE(agrees("mask_logits", trace.mask_logits));
}

TEST_P(detector_infer, DetectsWhatTheReferenceDetects) {
  const auto out = c().detector->detect(images, sizes("output_sizes"));
  ASSERT_EQ(out.size(), images.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    EXPECT_TRUE(agrees(cat("det_boxes.", i), out[i].boxes));
    EXPECT_TRUE(agrees(cat("det_scores.", i), out[i].scores));
    EXPECT_TRUE(agrees(cat("det_classes.", i), out[i].classes));
    // Packed bits, least significant first, one row a mask; pixels at the threshold may fall either way.
    const at::Tensor& packed = expected.at(cat("det_masks_packed.", i));
    const at::Tensor bits = packed.unsqueeze(2).bitwise_right_shift(at::arange(8, at::kByte)).bitwise_and(1).flatten(1);
    const at::Tensor ours = out[i].masks.flatten(1).to(at::kByte);
    ASSERT_EQ(ours.size(0), bits.size(0));
    const auto flipped = ours.ne(bits.narrow(1, 0, ours.size(1))).sum().item<std::int64_t>();
    const auto& own = c().noise.at(cat(c().name, "_infer/det_masks_packed.", i));
    EXPECT_LE(flipped, 20 * own.at("flipped_pixels").get<std::int64_t>() + 4) << "image " << i;
    EXPECT_NEAR(ours.sum().item<double>(), expected.at(cat("det_mask_area.", i)).sum().item<double>(),
                static_cast<double>(flipped));
  }
}

INSTANTIATE_TEST_SUITE_P(of, detector_infer, testing::Values("r50", "swin"),
                         [](const auto& backbone) { return std::string(backbone.param); });

}  // namespace divergen::models
