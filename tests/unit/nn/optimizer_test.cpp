#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "nn/adamw.hpp"
#include "nn/ema.hpp"
#include "nn/layers.hpp"
#include "nn/lr_schedule.hpp"

namespace divergen::nn {
namespace {

at::Generator seeded(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

struct Pair : Module {
  Linear used{3, 4}, unused{3, 4};
  Pair() {
    child("used", used);
    child("unused", unused);
  }
};

void take_steps(Pair& model, AdamWOptions options, int count) {
  auto generator = seeded(1);
  init_default(model, generator);
  model.requires_grad(true);
  AdamW optimizer(model.named_parameters(), options);
  const at::Tensor x = at::randn({8, 3}, generator);
  for (int i = 0; i < count; ++i) {
    optimizer.zero_grad();
    model.used.forward(x).pow(2).mean().backward();
    optimizer.step(1e-2);
  }
}

}  // namespace

TEST(AdamW, FusedEqualsThePlainTwin) {
  Pair plain, fused;

  take_steps(plain, {.clip_value = 0.1, .fused = false}, 20);
  take_steps(fused, {.clip_value = 0.1, .fused = true}, 20);

  EXPECT_TRUE(at::allclose(plain.used.weight, fused.used.weight, 1e-5, 1e-7));
  EXPECT_TRUE(at::equal(plain.unused.weight, fused.unused.weight));
}

TEST(AdamW, LeavesParametersWithoutGradientAlone) {
  Pair before, after;

  take_steps(before, {.weight_decay = 0.5}, 0);
  take_steps(after, {.weight_decay = 0.5}, 3);

  EXPECT_TRUE(at::equal(before.unused.weight, after.unused.weight));
  EXPECT_FALSE(at::equal(before.used.weight, after.used.weight));
}

TEST(Ema, AveragesFloatsAndSwaps) {
  Linear layer(1, 1);
  at::NoGradGuard no_grad;
  layer.weight.fill_(0);
  layer.bias.fill_(0);
  Ema ema(layer, 0.75);
  layer.weight.fill_(4);

  ema.update(layer);
  ema.swap_with(layer);

  EXPECT_FLOAT_EQ(layer.weight.item<float>(), 1);
  EXPECT_FLOAT_EQ(ema.tensors()[0].tensor.item<float>(), 4);
}

TEST(WarmupCosine, GivesTheReferenceValues) {
  const WarmupCosine schedule;  // 180,000 iterations, base 1e-4, warm-up 10,000

  EXPECT_DOUBLE_EQ(schedule.at(0), 1e-8);
  EXPECT_NEAR(schedule.at(5000), 4.9625e-5, 5e-10);
  EXPECT_NEAR(schedule.at(10000), 9.92404e-5, 5e-10);
  EXPECT_NEAR(schedule.at(90000), 5e-5, 1e-12);
}

}  // namespace divergen::nn
