// Training of the small detectors against detectron2 + CenterNet2 + DiverGen: targets, samples, losses, gradients, and
// three steps of the optimizer.

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "detector_case.hpp"
#include "nn/adamw.hpp"
#include "nn/ema.hpp"

namespace divergen::models {
namespace {

class detector_train : public testing::TestWithParam<const char*> {
 protected:
  detector_train() {
    const auto& train = c.config.at("train");
    for (std::size_t i = 0; i < images.size(); ++i) {
      DetectorTruth truth{expected.at(cat("gt_boxes.", i)), expected.at(cat("gt_classes.", i)), {}, {}};
      if (train.at("mask_format") == "polygon") train.at("gt_polygons").at(i).get_to(truth.polygons);
      else truth.masks = expected.at(cat("gt_masks.", i));
      truths.push_back(truth);
      batch.push_back({images[i], truth});
      sizes.push_back({images[i].size(1), images[i].size(2)});
      boxes.push_back(truth.boxes);
    }
  }
  testing::AssertionResult agrees(const std::string& key, const at::Tensor& ours) const {
    return c.agrees("train", key, ours, expected.at(key));
  }
  at::Tensor flat(const char* name) const {  // maps of all levels as one list of cells
    std::vector<at::Tensor> levels;
    for (int l = 0; l < 5; ++l) {
      const at::Tensor& map = expected.at(cat(name, ".", l));
      levels.push_back(map.permute({0, 2, 3, 1}).reshape({-1, map.size(1)}));
    }
    return at::cat(levels);
  }
  CenterNetGrid grid() const {
    std::vector<ImageSize> shapes;
    for (int l = 0; l < 5; ++l)
      shapes.push_back({expected.at(cat("reg.", l)).size(2), expected.at(cat("reg.", l)).size(3)});
    return CenterNetGrid(shapes, at::kFloat);
  }
  std::vector<Proposals> proposals(const nn::TensorMap& from, const std::string& prefix) const {
    std::vector<Proposals> out;
    for (std::size_t i = 0; i < images.size(); ++i)
      out.push_back({from.at(cat(prefix, "proposal_boxes.", i)), from.at(cat(prefix, "proposal_scores.", i))});
    return out;
  }
  void expect_losses(const std::map<std::string, at::Tensor>& ours, std::size_t step) const {
    const auto& losses = c.config.at("train").at("steps").at(step).at("losses");
    EXPECT_EQ(ours.size(), losses.size());
    for (const auto& [name, value] : losses.items()) {
      ASSERT_TRUE(ours.contains(name)) << name;
      const auto reference = value.get<double>();
      EXPECT_NEAR(ours.at(name).item<double>(), reference,
                  c.tolerance(cat(c.name, "_loss/step", step, ".", name), std::abs(reference)))
          << name << " of step " << step;
    }
  }
  /// Category sets of a trace against the reference's, which have background (class C) where it appeared.
  void expect_categories(const RoiTrace& trace, const nn::TensorMap& from, const std::string& prefix) const {
    for (std::size_t k = 0; k < kCascadeStages; ++k) {
      const at::Tensor all = std::get<0>(from.at(cat(prefix, "fed_inds.stage", k)).sort());
      const at::Tensor classes = all.masked_select(all.ne(c.detector->num_classes()));
      EXPECT_TRUE(at::equal(trace.stages[k].categories, classes)) << prefix << "stage " << k;
    }
  }

  DetectorCase c{GetParam()};
  nn::TensorMap expected = c.tensors("train");
  std::vector<at::Tensor> images = images_of(expected), boxes;
  std::vector<DetectorTruth> truths;
  std::vector<DetectorSample> batch;
  std::vector<ImageSize> sizes;
};

at::Tensor sum_of(const std::map<std::string, at::Tensor>& losses) {
  at::Tensor total;
  for (const auto& [name, loss] : losses) total = total.defined() ? total + loss : loss;
  return total;
}

}  // namespace

TEST_P(detector_train, MapsOfTheBatch) {
  at::NoGradGuard no_grad;
  const auto features = c.detector->backbone().forward(c.detector->prepare(images));
  EXPECT_TRUE(agrees("p4", features[1]));
  EXPECT_TRUE(agrees("p5", features[2]));
  const CenterNetOutput output = c.detector->proposal_head().forward(features);
  for (std::size_t l = 0; l < output.heat.size(); ++l) {
    EXPECT_TRUE(agrees(cat("agn_hm.", l), output.heat[l]));
    EXPECT_TRUE(agrees(cat("reg.", l), output.regression[l]));
  }
}

TEST_P(detector_train, CenterNetTargetsLossesAndProposals) {
  const CenterNetTargets targets = centernet_targets(boxes, grid());
  EXPECT_TRUE(agrees("cn_pos_inds", targets.positives));
  EXPECT_TRUE(at::equal(targets.regression, expected.at("cn_reg_targets")));  // exact: -1e8 hides every tolerance
  EXPECT_TRUE(agrees("cn_heatmap", targets.heat.unsqueeze(1)));
  const auto losses = centernet_losses(flat("agn_hm").squeeze(1), flat("reg"), targets, {});
  const auto& reference = c.config.at("train").at("steps").at(0).at("losses");
  EXPECT_EQ(losses.size(), 3U);
  for (const auto& [name, loss] : losses)
    EXPECT_NEAR(loss.item<double>(), reference.at(name).get<double>(),
                2e-6 * std::abs(reference.at(name).get<double>()));

  std::vector<at::Tensor> heat, regression;
  for (int l = 0; l < 5; ++l) {
    heat.push_back(expected.at(cat("agn_hm.", l)).sigmoid());
    regression.push_back(expected.at(cat("reg.", l)));
  }
  const auto found = propose(heat, regression, grid(), c.detector->training_limits());
  for (std::size_t i = 0; i < images.size(); ++i) {
    EXPECT_TRUE(agrees(cat("proposal_boxes.", i), found[i].boxes));
    EXPECT_TRUE(agrees(cat("proposal_scores.", i), found[i].scores));
  }
}

TEST_P(detector_train, MatchesAndSamplesRois) {
  const RoiHeads& heads = c.detector->roi_heads();
  const TruthList truth(truths, heads.num_classes(), at::kFloat);
  const auto given = proposals(expected, "");
  at::Generator generator = seeded(c.config.at("train").at("steps").at(0).at("seed"));
  const RoiSet samples = heads.sample(given, truth, generator);
  for (std::size_t i = 0; i < images.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    const at::Tensor with_truth = at::cat({given[i].boxes, boxes[i]});
    const RoiSet matched = heads.match_rois(with_truth, at::full({with_truth.size(0)}, index, at::kLong), truth, 0.6);
    const at::Tensor label = expected.at(cat("matched_label.", i)), object = expected.at(cat("matched_gt.", i));
    EXPECT_TRUE(at::equal(matched.classes.ne(heads.num_classes()).to(at::kLong), label)) << "image " << i;
    if (boxes[i].size(0) > 0) {
      EXPECT_TRUE(at::equal(matched.truth - truth.first[i], object)) << "image " << i;
    }

    const at::Tensor rows = expected.at(cat("sampled_idx.", i));
    EXPECT_TRUE(at::equal(of_image(samples.boxes, samples.image, index), with_truth.index_select(0, rows))) << i;
    EXPECT_TRUE(agrees(cat("sampled_gt_classes.", i), of_image(samples.classes, samples.image, index)));
  }
}

TEST_P(detector_train, CascadeAndMaskHead) {
  const RoiHeads& heads = c.detector->roi_heads();
  const TruthList truth(truths, heads.num_classes(), at::kFloat);
  at::Generator generator = seeded(c.config.at("train").at("steps").at(0).at("seed"));
  const RoiSet samples = heads.sample(proposals(expected, ""), truth, generator);
  const auto features = c.detector->backbone().forward(c.detector->prepare(images));
  RoiTrace trace;
  const auto losses = heads.losses(features, samples, truths, truth, sizes, generator, &trace);
  EXPECT_EQ(losses.size(), 7U);
  expect_categories(trace, expected, "");
  for (std::size_t k = 0; k < kCascadeStages; ++k) {
    const RoiTrace::Stage& stage = trace.stages[k];
    EXPECT_TRUE(agrees(cat("cls_logits.stage", k), stage.logits));
    EXPECT_TRUE(agrees(cat("box_deltas.stage", k), stage.deltas));
    for (std::size_t i = 0; i < images.size(); ++i) {
      const auto of = [&](const at::Tensor& rows) {
        return of_image(rows, stage.rois.image, static_cast<std::int64_t>(i));
      };
      EXPECT_TRUE(agrees(cat("stage", k, "_boxes.", i), of(stage.rois.boxes)));
      EXPECT_TRUE(agrees(cat("stage", k, "_gt_classes.", i), of(stage.rois.classes)));
      if (const std::string key = cat("stage", k, "_gt_boxes.", i); expected.contains(key)) {
        EXPECT_TRUE(agrees(key, of(stage.rois.truth_boxes)));
      }
    }
  }
  EXPECT_TRUE(agrees("mask_roi_batch", trace.mask_rois.select(1, 0).to(at::kLong)));
  EXPECT_TRUE(agrees("mask_roi_boxes", trace.mask_rois.slice(1, 1)));
  EXPECT_TRUE(agrees("mask_targets", trace.mask_targets.to(at::kByte)));
  EXPECT_TRUE(agrees("mask_logits", trace.mask_logits));
}

TEST_P(detector_train, LossesAndGradients) {
  c.detector->requires_grad(true);
  const auto& step = c.config.at("train").at("steps").at(0);
  // Kernels sum in another order with another number of threads. Where that takes one ReLU of a RoI across zero, all
  // gradients below it move by more than rounding does; with one of the two orders they must agree.
  std::vector<std::string> misfits;
  const int threads = at::get_num_threads();
  for (const int order : {threads, threads == 1 ? 2 : 1}) {
    at::set_num_threads(order);
    misfits.clear();
    for (nn::NamedTensor& p : c.detector->named_parameters()) p.tensor.mutable_grad() = at::Tensor();
    at::Generator generator = seeded(step.at("seed"));
    int reductions = 0;
    const auto losses = c.detector->losses(batch, generator, [&](at::Tensor&) { ++reductions; });
    EXPECT_EQ(reductions, 1);
    expect_losses(losses, 0);
    sum_of(losses).backward();

    std::size_t selected = 0;
    for (const nn::NamedTensor& p : c.detector->named_parameters()) {
      const auto& norm = step.at("grad_l2").at(p.name);
      EXPECT_EQ(p.tensor.grad().defined(), !norm.is_null()) << p.name;
      if (norm.is_null() || !p.tensor.grad().defined()) continue;
      // The norms have no noise of their own in the fixtures; the worst of the dumped gradients is 1.5e-4.
      EXPECT_NEAR(p.tensor.grad().norm().item<double>(), norm.get<double>(), 3e-3 * norm.get<double>() + 1e-6)
          << p.name;
      if (!expected.contains("grad." + p.name)) continue;
      ++selected;
      if (const auto result = agrees("grad." + p.name, p.tensor.grad()); !result) misfits.push_back(result.message());
    }
    EXPECT_EQ(selected, c.config.at("train").at("selected_params").size());
    if (misfits.empty()) break;
  }
  at::set_num_threads(threads);
  EXPECT_EQ(misfits, std::vector<std::string>{});
}

TEST_P(detector_train, ThreeSteps) {
  const auto steps = c.tensors("steps");
  const auto& train = c.config.at("train");
  const auto& options = train.at("optimizer");
  c.detector->requires_grad(true);
  const RoiHeads& heads = c.detector->roi_heads();
  const TruthList truth(truths, heads.num_classes(), at::kFloat);
  nn::AdamW optimizer(c.detector->named_parameters(), {.weight_decay = options.at("weight_decay"),
                                                       .clip_value = options.at("clip_value").get<double>()});
  nn::Ema average(*c.detector, options.at("ema_decay"));
  const auto expect_tensors = [&](const std::string& prefix, const std::vector<nn::NamedTensor>& tensors) {
    std::size_t seen = 0;
    for (const nn::NamedTensor& p : tensors)
      if (const auto reference = steps.find(prefix + p.name); reference != steps.end()) {
        EXPECT_TRUE(c.agrees("steps", prefix + p.name, p.tensor, reference->second));
        ++seen;
      }
    EXPECT_EQ(seen, train.at("selected_params").size());
  };

  for (std::size_t k = 0; k < 3; ++k) {
    // The order of later steps' proposals is not stable under rounding, so they come from the reference.
    const auto given = k == 0 ? proposals(expected, "") : proposals(steps, cat("step", k, "."));
    at::Generator generator = seeded(train.at("steps").at(k).at("seed"));
    const auto features = c.detector->backbone().forward(c.detector->prepare(images));
    const CenterNetOutput output = c.detector->proposal_head().forward(features);
    const auto [heat, regression] = flatten_cells(output);
    auto losses = centernet_losses(heat, regression, centernet_targets(boxes, grid_of(output)), {});
    const RoiSet samples = heads.sample(given, truth, generator);
    RoiTrace trace;
    losses.merge(heads.losses(features, samples, truths, truth, sizes, generator, &trace));
    if (k > 0) {
      expect_categories(trace, steps, cat("step", k, "."));
      for (std::size_t i = 0; i < images.size(); ++i) {
        const auto of = [&](const at::Tensor& rows) {
          return of_image(rows, samples.image, static_cast<std::int64_t>(i));
        };
        const at::Tensor all = at::cat({given[i].boxes, boxes[i]});
        const at::Tensor drawn = steps.at(cat("step", k, ".sampled_idx.", i));
        EXPECT_TRUE(at::equal(of(samples.boxes), all.index_select(0, drawn))) << "step " << k << " image " << i;
        EXPECT_TRUE(at::equal(of(samples.classes), steps.at(cat("step", k, ".stage0_gt_classes.", i))));
      }
    }
    expect_losses(losses, k);
    average.update(*c.detector);  // before the step, as the reference does
    optimizer.zero_grad();
    sum_of(losses).backward();
    optimizer.step(train.at("steps").at(k).at("lr_before"));
    if (k == 0) expect_tensors("param_after1.", c.detector->named_parameters());
  }
  expect_tensors("param_after3.", c.detector->named_parameters());
  expect_tensors("ema_after3.", average.tensors());
}

INSTANTIATE_TEST_SUITE_P(of, detector_train, testing::Values("r50", "swin"),
                         [](const auto& backbone) { return std::string(backbone.param); });

}  // namespace divergen::models
