// CenterNet's targets, losses and proposals, and the losses of the box heads, on single cases of the reference.

#include <gtest/gtest.h>

#include "detector_case.hpp"

namespace divergen::models {
namespace {

class detector_losses : public testing::Test {
 protected:
  const at::Tensor& get(const std::string& name) const { return tensors.at(name); }
  nn::TensorMap tensors = test::fixture_tensors(test::fixtures("detector") / "ops.safetensors");
  nlohmann::json facts = test::fixture_json(test::fixtures("detector") / "ops.json");
};

}  // namespace

TEST_F(detector_losses, CenterNet) {
  const CenterNetGrid grid(facts.at("cnt").at("level_shapes").get<std::vector<ImageSize>>(), at::kFloat);
  std::vector<at::Tensor> boxes;
  for (int i = 0; tensors.contains(cat("cnt.gt_boxes.", i)); ++i) boxes.push_back(get(cat("cnt.gt_boxes.", i)));
  const CenterNetTargets targets = centernet_targets(boxes, grid);
  EXPECT_TRUE(at::equal(targets.positives, get("cnt.pos_inds")));
  EXPECT_TRUE(at::equal(targets.regression, get("cnt.reg_targets")));
  EXPECT_TENSOR_NEAR(targets.heat.unsqueeze(1), get("cnt.heatmap"), 1e-7);

  const at::Tensor heat = get("cnt.agn_logits").clone().requires_grad_(true);
  const at::Tensor regression = get("cnt.reg_pred").clone().requires_grad_(true);
  const auto losses = centernet_losses(heat, regression, targets, {});
  at::Tensor total = at::zeros({});
  for (const auto& [name, value] : facts.at("cnt").at("losses").items()) {
    EXPECT_NEAR(losses.at(name).item<double>(), value.get<double>(), 1e-6 * value.get<double>()) << name;
    total = total + losses.at(name);
  }
  total.backward();
  EXPECT_TENSOR_NEAR(heat.grad(), get("cnt.grad_agn"), 1e-6);
  EXPECT_TENSOR_NEAR(regression.grad(), get("cnt.grad_reg"), 1e-6);
}

TEST_F(detector_losses, NormalisersAreMeansOverRanks) {
  const CenterNetGrid grid(facts.at("cnt").at("level_shapes").get<std::vector<ImageSize>>(), at::kFloat);
  const auto targets = centernet_targets(std::vector<at::Tensor>{get("cnt.gt_boxes.0"), get("cnt.gt_boxes.1")}, grid);
  const auto one = centernet_losses(get("cnt.agn_logits"), get("cnt.reg_pred"), targets, {});
  const auto two =
      centernet_losses(get("cnt.agn_logits"), get("cnt.reg_pred"), targets, [](at::Tensor& counts) { counts.mul_(2); });
  for (const auto& [name, loss] : one) EXPECT_NEAR(loss.item<double>(), 2 * two.at(name).item<double>(), 1e-6) << name;
}

TEST_F(detector_losses, ProposalsWithTiedScores) {
  std::vector<at::Tensor> heat, regression;
  std::vector<ImageSize> shapes;
  for (int l = 0; l < 5; ++l) {
    heat.push_back(get(cat("dec.heat.", l)));
    regression.push_back(get(cat("dec.reg.", l)));
    shapes.push_back({heat.back().size(2), heat.back().size(3)});
  }
  const auto& dec = facts.at("dec");
  const auto found = propose(heat, regression, CenterNetGrid(shapes, at::kFloat),
                             {dec.at("pre_nms_topk").get<std::int64_t>(), dec.at("post_nms_topk").get<std::int64_t>()});
  for (std::size_t i = 0; i < found.size(); ++i) {
    const at::Tensor &scores = get(cat("dec.scores.", i)), &boxes = get(cat("dec.boxes.", i));
    ASSERT_EQ(found[i].scores.numel(), dec.at("num").at(i).get<std::int64_t>());
    EXPECT_TENSOR_NEAR(found[i].scores, scores, 1e-7);
    // Boxes of equal scores may come in any order: each of ours is one of the reference's with that score.
    const at::Tensor same = (found[i].boxes.unsqueeze(1) - boxes)
                                .abs()
                                .amax(2)
                                .le(1e-4)
                                .logical_and((found[i].scores.unsqueeze(1) - scores).abs().le(1e-7));
    EXPECT_TRUE(same.any(1).all().item<bool>()) << "image " << i;
  }
}

TEST_F(detector_losses, FederatedCategories) {
  const auto& fed = facts.at("fed");
  const auto classes = fed.at("C").get<std::int64_t>();
  for (const std::string name : {"few", "many", "onlybg"}) {
    at::Generator generator = seeded(fed.at("manual_seed"));
    const at::Tensor ours =
        federated_categories(get("fed." + name + ".gt"), get("fed.freq_weight"), fed.at("num_sample_cats"), generator);
    const at::Tensor all = std::get<0>(get("fed." + name + ".inds").sort());
    EXPECT_TRUE(at::equal(ours, all.masked_select(all.ne(classes)))) << name;
  }
}

TEST_F(detector_losses, FederatedLoss) {
  const auto& sce = facts.at("sce");
  at::Generator generator = seeded(sce.at("manual_seed"));
  const at::Tensor logits = get("sce.logits").clone().requires_grad_(true);
  const at::Tensor categories =
      federated_categories(get("sce.gt"), get("fed.freq_weight"), sce.at("num_sample_cats"), generator);
  const at::Tensor loss = federated_loss(logits, get("sce.gt"), categories);
  EXPECT_TENSOR_NEAR(loss, get("sce.loss"), 1e-6 * get("sce.loss").item<double>());
  loss.backward();
  EXPECT_TENSOR_NEAR(logits.grad(), get("sce.grad"), 1e-7);
  EXPECT_EQ(federated_loss(logits.narrow(0, 0, 0), get("sce.gt").narrow(0, 0, 0), categories).item<double>(), 0.0);
}

TEST_F(detector_losses, BoxLossIsTheMeanOverForeground) {
  // The case has the boxes of b2b and the weights of the second stage; class 20 is background there.
  const BoxTransform transform{{20, 20, 10, 10}};
  const RoiSet rois{get("b2b.src"), {}, get("boxreg.gt_classes"), {}, get("b2b.tgt")};
  const at::Tensor deltas = get("boxreg.deltas").clone().requires_grad_(true);
  const at::Tensor loss = box_loss(deltas, rois, transform, facts.at("sce").at("C"));
  EXPECT_TENSOR_NEAR(loss, get("boxreg.loss"), 1e-6);
  loss.backward();
  EXPECT_TENSOR_NEAR(deltas.grad(), get("boxreg.grad"), 1e-7);
}

}  // namespace divergen::models
