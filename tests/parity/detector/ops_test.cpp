// The detector's operators against detectron2, torchvision and pycocotools, case by case (ops.safetensors).

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "base/error.hpp"
#include "mask/rle.hpp"
#include "models/detector/box_ops.hpp"
#include "nn/nms.hpp"
#include "nn/roi_align.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

class ops : public testing::Test {
 protected:
  static const at::Tensor& tensor(const std::string& name) {
    static const nn::TensorMap all = test::fixture_tensors(test::fixtures("detector") / "ops.safetensors");
    const auto found = all.find(name);
    if (found == all.end()) throw std::runtime_error("no tensor " + name + " among the fixtures");
    return found->second;
  }
  static const nlohmann::json& facts() {
    static const nlohmann::json all = test::fixture_json(test::fixtures("detector") / "ops.json");
    return all;
  }
};

/// A part of the largest value; 2e-5 is what the fixtures' own reference moves by when its kernels change.
double relative(const at::Tensor& reference, double part = 2e-5) { return part * reference.abs().max().item<double>(); }

at::Tensor differing(const at::Tensor& ours, const at::Tensor& reference) { return ours.ne(reference.to(at::kBool)); }

std::int64_t count(const at::Tensor& flags) { return flags.sum().item<std::int64_t>(); }

/// [R, 5] of the boxes of two images.
at::Tensor rois_of(const at::Tensor& first, const at::Tensor& second) {
  const auto with_image = [](const at::Tensor& boxes, double image) {
    return at::cat({at::full({boxes.size(0), 1}, image), boxes}, 1);
  };
  return at::cat({with_image(first, 0), with_image(second, 1)});
}

}  // namespace

TEST_F(ops, RoiAlignPoolsFromTheLevelOfTheBox) {
  std::vector<at::Tensor> features;
  for (int level = 0; level < 3; ++level)
    features.push_back(tensor(cat("roialign.feat.", level)).clone().requires_grad_(true));
  const at::Tensor rois = rois_of(tensor("roialign.boxes.0"), tensor("roialign.boxes.1"));

  EXPECT_TRUE(at::equal(assign_levels(rois.narrow(1, 1, 4), 3, 5) - 3, tensor("roialign.levels")));
  const at::Tensor seven = pool_rois(features, rois, 7), fourteen = pool_rois(features, rois, 14);
  seven.backward(tensor("roialign.grad_out7"));

  // Sums run in torchvision's order: the same bits.
  EXPECT_TENSOR_NEAR(seven, tensor("roialign.out7"), 0);
  EXPECT_TENSOR_NEAR(fourteen, tensor("roialign.out14"), 0);
  for (int level = 0; level < 3; ++level) {
    const at::Tensor& expected = tensor(cat("roialign.grad_feat7.", level));
    EXPECT_TENSOR_NEAR(features[static_cast<std::size_t>(level)].grad(), expected, relative(expected)) << level;
  }
}

TEST_F(ops, RoiAlignWithFixedSampling) {
  const at::Tensor out = nn::roi_align(tensor("roialign.single.x"), tensor("roialign.single.rois"), {5, 4}, 0.25, 2);

  EXPECT_TENSOR_NEAR(out, tensor("roialign.single.out_5x4_s0.25_sr2_aligned"), 0);
}

TEST_F(ops, RoiAlignFromAtenOperatorsAgrees) {
  const at::Tensor rois = rois_of(tensor("roialign.boxes.0"), tensor("roialign.boxes.1"));
  const at::Tensor written = tensor("roialign.feat.0").clone().requires_grad_(true);
  const at::Tensor composed = tensor("roialign.feat.0").clone().requires_grad_(true);

  const at::Tensor a = nn::roi_align(written, rois, {7, 7}, 0.125, 0);
  const at::Tensor b = nn::roi_align_composed(composed, rois, {7, 7}, 0.125, 0);
  a.backward(tensor("roialign.grad_out7"));
  b.backward(tensor("roialign.grad_out7"));

  EXPECT_TENSOR_NEAR(b, a, relative(a));
  EXPECT_TENSOR_NEAR(composed.grad(), written.grad(), relative(written.grad()));
}

TEST_F(ops, NmsKeepsWhatTorchvisionKeeps) {
  for (const auto& [name, entry] : facts().at("nms").items()) {
    const std::string prefix = cat("nms.", name, ".");
    const at::Tensor &boxes = tensor(prefix + "boxes"), &scores = tensor(prefix + "scores");
    const double threshold = entry.at("thr").get<double>();

    EXPECT_TRUE(at::equal(nn::nms(boxes, scores, threshold), tensor(prefix + "keep_agnostic"))) << name;
    EXPECT_TRUE(at::equal(nn::nms_composed(boxes, scores, threshold), tensor(prefix + "keep_agnostic"))) << name;
    const at::Tensor kept = nn::batched_nms(boxes, scores, tensor(prefix + "classes"), threshold);
    const at::Tensor& expected = tensor(prefix + "keep");
    if (boxes.numel() <= 4000) {
      EXPECT_TRUE(at::equal(kept, expected)) << name;
    } else {  // the last sort of the class-by-class way leaves equal scores in an order that depends on the processor
      EXPECT_TRUE(at::equal(std::get<0>(kept.sort()), std::get<0>(expected.sort()))) << name;
      EXPECT_TRUE(at::equal(scores.index({kept}), scores.index({expected}))) << name;
    }
  }
}

TEST_F(ops, DetectionsOfAnImage) {
  const auto& entry = facts().at("frcnn");
  const ScoredBoxes found = select_detections(
      tensor("frcnn.boxes"), tensor("frcnn.scores"), entry.at("image").get<std::array<std::int64_t, 2>>(),
      entry.at("score_thresh").get<double>(), entry.at("nms").get<double>(), entry.at("topk").get<std::int64_t>());

  EXPECT_TENSOR_NEAR(found.boxes, tensor("frcnn.out_boxes"), 0);
  EXPECT_TENSOR_NEAR(found.scores, tensor("frcnn.out_scores"), 0);
  EXPECT_TRUE(at::equal(found.classes, tensor("frcnn.out_classes")));
  EXPECT_TRUE(at::equal(found.rows, tensor("frcnn.out_roi_index")));
}

TEST_F(ops, PastesMasks) {
  const auto size = facts().at("paste").at("size").get<std::array<std::int64_t, 2>>();
  const at::Tensor &masks = tensor("paste.masks"), &boxes = tensor("paste.boxes"), &soft = tensor("paste.soft");

  EXPECT_EQ(count(differing(paste_masks(masks, boxes, size[0], size[1], 0.5), tensor("paste.out_0.5"))), 0);
  // The soft values, by where they cross other thresholds; the last bit may differ from ATen's grid sampler.
  for (const double threshold : {0.6, 0.7, 0.8, 0.9}) {
    const at::Tensor wrong = paste_masks(masks, boxes, size[0], size[1], threshold).ne(soft.ge(threshold));
    EXPECT_EQ(count(wrong.logical_and((soft - threshold).abs().gt(1e-6))), 0) << threshold;
  }
}

TEST_F(ops, PostprocessingDropsEmptyBoxesAndPastes) {
  const auto& entry = facts().at("post");
  const auto from = entry.at("in_size").get<std::array<std::int64_t, 2>>();
  const auto to = entry.at("out_size").get<std::array<std::int64_t, 2>>();

  const at::Tensor boxes = rescale_boxes(tensor("post.in_boxes"), from, to);
  const at::Tensor keep = nonempty_boxes(boxes);
  const at::Tensor kept = boxes.index({keep});

  EXPECT_EQ(count(differing(keep, tensor("post.keep"))), 0);
  EXPECT_TENSOR_NEAR(kept, tensor("post.out_boxes"), 0);
  const at::Tensor masks = paste_masks(tensor("post.in_masks").squeeze(1).index({keep}), kept, to[0], to[1], 0.5);
  EXPECT_EQ(count(differing(masks, tensor("post.out_masks"))), 0);
}

TEST_F(ops, PolygonsAndCrops) {
  const auto& entry = facts().at("poly");
  const auto size = entry.at("size").get<std::array<std::int64_t, 2>>();
  const auto polygons = entry.at("polygons").get<std::vector<std::vector<std::vector<double>>>>();
  const at::Tensor& bitmask = tensor("poly.bitmask");

  for (std::size_t i = 0; i < polygons.size(); ++i) {
    const mask::Rle rle = mask::from_polygons(polygons[i], size[0], size[1]);
    EXPECT_EQ(mask::to_text(rle), entry.at("rle")[i].get<std::string>()) << i;
    EXPECT_EQ(mask::area(rle), entry.at("area")[i].get<std::uint64_t>()) << i;
    EXPECT_EQ(mask::bounding_box(rle), (entry.at("bbox")[i].get<std::array<double, 4>>())) << i;
    const std::vector<std::uint8_t> bits = mask::decode(rle);
    const at::Tensor row = bitmask[static_cast<std::int64_t>(i)].contiguous();
    EXPECT_TRUE(std::equal(bits.begin(), bits.end(), row.const_data_ptr<std::uint8_t>())) << i;
  }
  const at::Tensor& boxes = tensor("poly.roi_boxes");
  EXPECT_EQ(count(differing(raster_polygons(polygons, boxes, 28), tensor("poly.raster28"))), 0);
  EXPECT_EQ(count(differing(crop_masks(bitmask, boxes, 28), tensor("poly.bitmask_crop28"))), 0);
  EXPECT_EQ(count(differing(crop_masks(bitmask.to(at::kBool), boxes, 28), tensor("poly.bitmask_crop28"))), 0);
}

TEST_F(ops, BoxTransformsOfTheThreeStages) {
  constexpr std::array<std::array<double, 4>, 3> kWeights{
      {{10, 10, 5, 5}, {20, 20, 10, 10}, {30, 30, 15, 15}}};  // reference/detector.md §7
  for (std::size_t k = 0; k < kWeights.size(); ++k) {
    const BoxTransform transform{kWeights[k]};
    const at::Tensor &deltas = tensor(cat("b2b.get_deltas.", k)), &boxes = tensor(cat("b2b.apply.", k));
    EXPECT_TENSOR_NEAR(transform.deltas(tensor("b2b.src"), tensor("b2b.tgt")), deltas, relative(deltas, 1e-6)) << k;
    EXPECT_TENSOR_NEAR(transform.apply(tensor("b2b.deltas"), tensor("b2b.src")), boxes, relative(boxes, 1e-6)) << k;
  }
}

TEST_F(ops, MatchesBoxesToTruths) {
  const at::Tensor iou = box_iou(tensor("match.gt"), tensor("match.boxes"));

  EXPECT_TENSOR_NEAR(iou, tensor("match.iou"), 0);
  for (const char* threshold : {"0.6", "0.7", "0.8"}) {
    const Match found = match(iou, std::stod(threshold));
    EXPECT_TRUE(at::equal(found.index, tensor(cat("match.idx.", threshold)))) << threshold;
    EXPECT_TRUE(at::equal(found.label.to(at::kLong), tensor(cat("match.label.", threshold)))) << threshold;
  }
  const Match nothing = match(iou.narrow(0, 0, 0), 0.6);
  EXPECT_EQ(nothing.index.size(0), iou.size(1));
  EXPECT_EQ(count(nothing.label), 0);
}

TEST_F(ops, SubsamplesLabels) {
  const auto& entry = facts().at("sample");
  auto generator = at::make_generator<at::CPUGeneratorImpl>(entry.at("manual_seed").get<std::uint64_t>());

  const auto [positive, negative] =
      subsample_labels(tensor("sample.labels"), entry.at("num_samples").get<std::int64_t>(),
                       entry.at("positive_fraction").get<double>(), entry.at("bg").get<std::int64_t>(), generator);

  EXPECT_TRUE(at::equal(positive, tensor("sample.pos")));
  EXPECT_TRUE(at::equal(negative, tensor("sample.neg")));
}

}  // namespace divergen::models
