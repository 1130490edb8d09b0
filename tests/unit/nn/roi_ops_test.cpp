// RoIAlign and NMS by their definitions, on random inputs: gradients, threads, and the greedy rule.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "nn/nms.hpp"
#include "nn/roi_align.hpp"

namespace divergen::nn {
namespace {

at::Generator seeded(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

/// Boxes within 0 ... `extent`, some of them beyond it.
at::Tensor random_boxes(std::int64_t count, double extent, at::Generator& generator) {
  const at::Tensor corner = at::rand({count, 2}, generator) * extent - 0.1 * extent;
  return at::cat({corner, corner + at::rand({count, 2}, generator) * (0.5 * extent)}, 1);
}

at::Tensor random_rois(std::int64_t count, std::int64_t images, double extent, at::Generator& generator) {
  const at::Tensor image = at::randint(images, {count, 1}, generator, at::dtype(at::kFloat));
  return at::cat({image, random_boxes(count, extent, generator)}, 1);
}

struct Pooled {
  at::Tensor out, grad;
};

Pooled pool_with_threads(int threads, const at::Tensor& features, const at::Tensor& rois, const at::Tensor& grad) {
  const int before = at::get_num_threads();
  at::set_num_threads(threads);
  const at::Tensor x = features.clone().requires_grad_(true);
  const at::Tensor out = roi_align(x, rois, 7, 0.25, 0);
  out.backward(grad);
  at::set_num_threads(before);
  return {out.detach(), x.grad()};
}

/// The rule of NMS as it is told: boxes by score, each kept unless a kept one overlaps it too much.
std::vector<std::int64_t> greedy(const at::Tensor& boxes, const at::Tensor& scores, double threshold) {
  const at::Tensor order = std::get<1>(scores.sort(true, 0, true));
  std::vector<std::int64_t> kept;
  for (std::int64_t k = 0; k < order.size(0); ++k) {
    const std::int64_t candidate = order[k].item<std::int64_t>();
    const auto box = [&](std::int64_t i, std::int64_t c) { return boxes[i][c].item<float>(); };
    const auto area = [&](std::int64_t i) { return (box(i, 2) - box(i, 0)) * (box(i, 3) - box(i, 1)); };
    bool is_kept = true;
    for (const std::int64_t other : kept) {
      const float w = std::min(box(candidate, 2), box(other, 2)) - std::max(box(candidate, 0), box(other, 0));
      const float h = std::min(box(candidate, 3), box(other, 3)) - std::max(box(candidate, 1), box(other, 1));
      const float overlap = std::max(w, 0.0F) * std::max(h, 0.0F);
      if (static_cast<double>(overlap / (area(other) + area(candidate) - overlap)) > threshold) is_kept = false;
    }
    if (is_kept) kept.push_back(candidate);
  }
  return kept;
}

}  // namespace

TEST(RoiAlign, GradientIsTheDerivative) {
  auto generator = seeded(1);
  const at::Tensor features = at::randn({2, 19, 6, 7}, generator).to(at::kDouble);
  const at::Tensor rois = random_rois(9, 2, 30, generator).to(at::kDouble);
  const at::Tensor weight = at::randn({9, 19, 3, 3}, generator).to(at::kDouble);
  const at::Tensor direction = at::randn(features.sizes(), generator).to(at::kDouble);
  const auto value = [&](double step) {
    return (roi_align(features + step * direction, rois, 3, 0.25, 0) * weight).sum().item<double>();
  };

  const at::Tensor x = features.clone().requires_grad_(true);
  (roi_align(x, rois, 3, 0.25, 0) * weight).sum().backward();

  // The operator is linear in the features, so a long step has no truncation error.
  EXPECT_NEAR((x.grad() * direction).sum().item<double>(), value(1) - value(0), 1e-9);
}

TEST(RoiAlign, DoesNotDependOnThreads) {
  auto generator = seeded(2);
  const at::Tensor features = at::randn({3, 40, 25, 33}, generator);
  const at::Tensor rois = random_rois(70, 3, 120, generator), grad = at::randn({70, 40, 7, 7}, generator);

  const Pooled one = pool_with_threads(1, features, rois, grad), four = pool_with_threads(4, features, rois, grad);

  EXPECT_TRUE(at::equal(one.out, four.out));
  EXPECT_TRUE(at::equal(one.grad, four.grad));
}

TEST(RoiAlign, ComposedOperatorsAgreeOnEverySampling) {
  auto generator = seeded(3);
  const at::Tensor features = at::randn({2, 20, 17, 23}, generator), rois = random_rois(40, 2, 90, generator);
  for (const std::int64_t sampling : {0, 1, 3}) {
    const at::Tensor a = roi_align(features, rois, {5, 4}, 0.25, sampling);
    EXPECT_TRUE(at::allclose(a, roi_align_composed(features, rois, {5, 4}, 0.25, sampling), 1e-4, 1e-5)) << sampling;
  }
}

TEST(RoiAlign, ReadsMasksAsTheyAreAndTakesNoRoiAtAll) {
  auto generator = seeded(4);
  const at::Tensor masks = at::rand({5, 1, 31, 40}, generator).gt(0.5), rois = random_rois(12, 5, 40, generator);

  EXPECT_TRUE(at::equal(roi_align(masks, rois, 28, 1.0, 0), roi_align(masks.to(at::kFloat), rois, 28, 1.0, 0)));
  EXPECT_EQ(roi_align(masks, rois.narrow(0, 0, 0), 28, 1.0, 0).sizes(), (at::IntArrayRef{0, 1, 28, 28}));
}

TEST(RoiAlign, RoisThatAreNotFiniteGiveZeros) {
  const at::Tensor rois = at::tensor({0.0F, 0.0F, NAN, 4.0F, 4.0F, 0.0F, 0.0F, 0.0F, INFINITY, 4.0F}).view({2, 5});
  const at::Tensor features = at::ones({1, 3, 8, 8});

  EXPECT_EQ(roi_align(features, rois, 2, 1.0, 0).abs().sum().item<double>(), 0);
  EXPECT_EQ(roi_align_composed(features, rois, {2, 2}, 1.0, 0).abs().sum().item<double>(), 0);
}

TEST(Nms, IsTheGreedyRule) {
  auto generator = seeded(5);
  const at::Tensor boxes = random_boxes(150, 50, generator);
  const at::Tensor scores = (at::rand({150}, generator) * 20).floor();  // many ties
  for (const double threshold : {0.1, 0.5, 0.9}) {
    const at::Tensor expected = at::tensor(greedy(boxes, scores, threshold), at::kLong);
    EXPECT_TRUE(at::equal(nms(boxes, scores, threshold), expected)) << threshold;
    EXPECT_TRUE(at::equal(nms_composed(boxes, scores, threshold), expected)) << threshold;
  }
}

TEST(Nms, SeparatesClassesBySizeBothWays) {
  auto generator = seeded(6);
  for (const std::int64_t count : {300, 1500}) {
    const at::Tensor boxes = random_boxes(count, 80, generator), scores = at::rand({count}, generator);
    const at::Tensor classes = at::randint(6, {count}, generator, at::dtype(at::kLong));
    at::Tensor expected = at::zeros({count}, at::kBool);
    for (std::int64_t c = 0; c < 6; ++c) {
      const at::Tensor members = classes.eq(c).nonzero().squeeze(1);
      expected.index_fill_(0, members.index({nms(boxes.index({members}), scores.index({members}), 0.5)}), true);
    }

    const at::Tensor kept = batched_nms(boxes, scores, classes, 0.5);

    EXPECT_TRUE(at::equal(at::zeros({count}, at::kBool).index_fill_(0, kept, true), expected)) << count;
    const at::Tensor order = scores.index({kept});
    EXPECT_TRUE(order.slice(0, 1).le(order.slice(0, 0, -1)).all().item<bool>()) << count;
  }
  EXPECT_EQ(batched_nms(at::zeros({0, 4}), at::zeros({0}), at::zeros({0}, at::kLong), 0.5).size(0), 0);
}

}  // namespace divergen::nn
