// Mixed precision, activation checkpointing, and the order of rows.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nn/adamw.hpp"
#include "nn/amp.hpp"
#include "nn/checkpointing.hpp"
#include "nn/gather_rows.hpp"
#include "nn/layers.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::nn {
namespace {

at::Generator seeded(std::uint64_t seed) { return at::detail::createCPUGenerator(seed); }

struct TwoLayers : Module {
  TwoLayers() : first(6, 8), second(8, 6) {
    child("first", first);
    child("second", second);
    at::Generator generator = seeded(4);
    init_default(*this, generator);
    requires_grad(true);
  }
  /// With noise from the default generator, as dropout has.
  at::Tensor forward(const at::Tensor& x) const {
    ++runs;
    const at::Tensor hidden = at::gelu(first.forward(x));
    return x + second.forward(hidden * at::rand(hidden.sizes()).gt(0.3));
  }
  std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> out;
    for (const NamedTensor& p : named_parameters()) out.push_back(p.tensor);
    return out;
  }
  Linear first, second;
  mutable int runs = 0;
};

struct Gradients {
  at::Tensor value, of_x;
  std::vector<at::Tensor> of_parameters;
};

Gradients gradients(const TwoLayers& layers, bool checkpointed, bool x_requires_grad,
                    at::ScalarType type = at::kFloat) {
  at::Generator generator = seeded(1);
  const at::Tensor x = at::randn({5, 6}, generator).requires_grad_(x_requires_grad);
  for (at::Tensor& p : layers.parameters()) p.mutable_grad() = at::Tensor();
  at::manual_seed(12);
  at::Tensor y;
  {
    const Autocast autocast(c10::DeviceType::CPU, type);
    const auto f = [&](const at::Tensor& in) { return layers.forward(in); };
    y = checkpointed ? checkpoint(f, x, layers.parameters()) : f(x);
    y = checkpointed ? checkpoint(f, y, layers.parameters()) : f(y);
  }
  at::manual_seed(99);  // backward must not see it
  y.to(at::kFloat).pow(2).sum().backward();
  Gradients out{y.detach(), x.grad(), {}};
  for (const at::Tensor& p : layers.parameters()) out.of_parameters.push_back(p.grad());
  return out;
}

}  // namespace

TEST(checkpoint, GivesTheSameBitsFromASecondRun) {
  const TwoLayers layers;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const bool with_x : {true, false}) {
      layers.runs = 0;
      const Gradients plain = gradients(layers, false, with_x, type);
      EXPECT_EQ(layers.runs, 2);
      const Gradients ours = gradients(layers, true, with_x, type);
      EXPECT_EQ(layers.runs, 6);  // each part once more in backward
      EXPECT_TRUE(at::equal(ours.value, plain.value));
      EXPECT_EQ(ours.of_x.defined(), with_x);
      if (with_x) EXPECT_TRUE(at::equal(ours.of_x, plain.of_x));
      // Autocast without checkpoints keeps one bfloat16 copy of a weight for both of its uses, and sums their gradients
      // in bfloat16; with checkpoints each use has its own, and they are summed in float32.
      const double part = type == at::kFloat ? 0 : 0.02;
      for (std::size_t i = 0; i < plain.of_parameters.size(); ++i)
        EXPECT_TENSOR_NEAR(ours.of_parameters[i], plain.of_parameters[i],
                           part * plain.of_parameters[i].abs().max().item<double>());
    }
}

TEST(checkpoint, LeavesTheRandomStreamAndAutocastAsTheyWere) {
  const TwoLayers layers;
  const auto next_after = [&](bool checkpointed) {
    gradients(layers, checkpointed, true);
    return at::rand({1}).item<float>();
  };
  EXPECT_EQ(next_after(true), next_after(false));
  EXPECT_FALSE(at::autocast::is_autocast_enabled(c10::DeviceType::CPU));
}

TEST(checkpoint, IsAPlainCallWithoutGradients) {
  const TwoLayers layers;
  at::NoGradGuard no_grad;
  const at::Tensor x = at::ones({2, 6});
  EXPECT_FALSE(
      checkpoint([&](const at::Tensor& in) { return layers.forward(in); }, x, layers.parameters()).requires_grad());
  EXPECT_EQ(layers.runs, 1);
}

TEST(amp, AutocastComputesInItsTypeAndEnds) {
  const at::Tensor a = at::ones({4, 4});
  {
    const Autocast half(c10::DeviceType::CPU, at::kBFloat16);
    EXPECT_EQ(at::matmul(a, a).scalar_type(), at::kBFloat16);
    {
      const Autocast nothing(c10::DeviceType::CPU, at::kFloat);
      EXPECT_EQ(at::matmul(a, a).scalar_type(), at::kBFloat16);
    }
  }
  EXPECT_EQ(at::matmul(a, a).scalar_type(), at::kFloat);
  EXPECT_EQ(precision_type("fp16"), at::kHalf);
  EXPECT_EQ(precision_type("bf16"), at::kBFloat16);
  EXPECT_EQ(precision_type("fp32"), at::kFloat);
}

TEST(amp, ScalerGrowsAndBacksOffAsPyTorchs) {
  GradScaler scaler({.initial_scale = 1024, .growth = 2, .backoff = 0.5, .growth_interval = 3});
  const auto after = [&](bool bad) {
    scaler.update(bad);
    return scaler.current_scale();
  };
  EXPECT_EQ(after(false), 1024);
  EXPECT_EQ(after(false), 1024);
  EXPECT_EQ(after(false), 2048);  // three in a row
  EXPECT_EQ(after(false), 2048);
  EXPECT_EQ(after(true), 1024);
  EXPECT_EQ(after(false), 1024);  // counting began anew
  EXPECT_EQ(after(false), 1024);
  EXPECT_EQ(after(false), 2048);
  EXPECT_EQ(GradScaler().current_scale(), 65536);

  GradScaler largest({.initial_scale = 3e38, .growth_interval = 1});
  largest.update(false);
  EXPECT_TRUE(std::isfinite(largest.current_scale()));
}

TEST(amp, ScalerStateGoesOnWhereItWas) {
  GradScaler before({.initial_scale = 64, .growth_interval = 3}), after({.initial_scale = 2, .growth_interval = 3});
  before.update(false);
  before.update(false);
  const auto from = before.state(), to = after.state();
  for (std::size_t i = 0; i < from.size(); ++i) {
    EXPECT_EQ(from[i].first, to[i].first);
    at::Tensor(to[i].second).copy_(from[i].second);
  }
  after.update(false);
  EXPECT_EQ(after.current_scale(), 128);
}

TEST(amp, UnscalingFindsWhatIsNotFinite) {
  const GradScaler scaler;
  std::vector<NamedTensor> parameters;
  for (const char* name : {"a", "unused", "b"})
    parameters.push_back({name, at::ones({3}).requires_grad_(true), true, true});
  const at::Tensor loss = (parameters[0].tensor * 3).sum() + (parameters[2].tensor * 5).sum();
  scaler.scale(loss).backward();
  EXPECT_EQ(parameters[0].tensor.grad()[0].item<float>(), 3 * 65536);
  EXPECT_FALSE(scaler.unscale(parameters));
  EXPECT_EQ(parameters[0].tensor.grad()[0].item<float>(), 3);
  EXPECT_EQ(parameters[2].tensor.grad()[2].item<float>(), 5);
  EXPECT_FALSE(parameters[1].tensor.grad().defined());
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    parameters[2].tensor.mutable_grad()[1] = bad;
    EXPECT_TRUE(scaler.unscale(parameters));
  }
}

TEST(gather_rows, PutsRowsInPlaceAndGradientsBack) {
  const std::vector<std::int64_t> places{2, -1, 0, 3, -1, 1};
  const RowMap map = RowMap::of(at::tensor(at::IntArrayRef(places), at::kLong), 4);
  at::Generator generator = seeded(8);
  const at::Tensor x = at::randn({2, 4, 3}, generator).requires_grad_(true);
  const at::Tensor fill = at::randn({3}, generator).requires_grad_(true);
  const at::Tensor weight = at::randn({2, 6, 3}, generator);
  const auto reference = [&] {
    std::vector<at::Tensor> rows;
    for (const std::int64_t place : places) rows.push_back(place < 0 ? fill.expand({2, 3}) : x.select(1, place));
    return at::stack(rows, 1);
  };
  const at::Tensor ours = gather_rows(x, map, fill);
  EXPECT_TRUE(at::equal(ours, reference()));
  (ours * weight).sum().backward();
  const at::Tensor of_x = x.grad(), of_fill = fill.grad();
  x.mutable_grad() = at::Tensor();
  fill.mutable_grad() = at::Tensor();
  (reference() * weight).sum().backward();
  EXPECT_TRUE(at::equal(of_x, x.grad()));
  EXPECT_TENSOR_NEAR(of_fill, fill.grad(), 1e-6);

  EXPECT_TRUE(at::equal(gather_rows(ours.detach(), map.inverse()), x.detach()));
  EXPECT_EQ(gather_rows(x, map)[0][1].abs().sum().item<float>(), 0);  // holes without a fill
}

TEST(adamw, FactorsOfTheLearningRateAreGroups) {
  for (const bool fused : {true, false}) {
    std::vector<NamedTensor> parameters;
    for (const char* name : {"backbone.a", "head.a"})
      parameters.push_back({name, at::ones({4}).requires_grad_(true), true, true});
    AdamWOptions options{.weight_decay = 0};
    options.lr_factor = [](const std::string& name) { return name.starts_with("backbone.") ? 0.1 : 1.0; };
    options.fused = fused;
    AdamW adamw(parameters, options);
    for (NamedTensor& p : parameters) p.tensor.mutable_grad() = at::full({4}, 2.0);
    adamw.step(0.5);
    EXPECT_NEAR(parameters[0].tensor[0].item<double>(), 1 - 0.05, 1e-6);
    EXPECT_NEAR(parameters[1].tensor[0].item<double>(), 1 - 0.5, 1e-6);
  }
}

}  // namespace divergen::nn
