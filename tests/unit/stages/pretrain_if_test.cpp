// The learning goal of the miniature DeepFloyd-IF, and that a training which was stopped ends with the same bits.

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "nn/tensor_io.hpp"
#include "stages/pretrain/if_task.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

const models::NoiseSchedule& schedule() {
  static const auto all = models::NoiseSchedule::from(models::ModelConfig(if_scheduler_json(1), "scheduler"));
  return all;
}

at::Tensor times(std::int64_t t, std::int64_t count = 1) { return at::full({count}, t, at::kLong); }

IfTaskOptions tiny() {
  IfTaskOptions o;
  o.unet.sample_size = 8;
  o.unet.in_channels = 3;
  o.unet.out_channels = 6;
  o.unet.block_out_channels = {32, 32};
  o.unet.down_blocks = {models::UnetBlock::Resnet, models::UnetBlock::SimpleCrossAttention};
  o.unet.up_blocks = {models::UnetBlock::SimpleCrossAttention, models::UnetBlock::Resnet};
  o.unet.mid_block = models::UnetBlock::SimpleCrossAttention;
  o.unet.layers_per_block = {1, 1};
  o.unet.cross_attention_dim = 32;
  o.unet.attention_head_dim = 16;
  o.unet.addition_heads = 2;
  o.unet.act = models::Act::Gelu;
  o.unet.scale_shift = o.unet.cross_attention_group_norm = o.unet.text_addition = true;
  o.unet.encoder_hid_dim = o.text.d_model = 16;
  o.text.d_ff = 16;
  o.text.d_kv = 8;
  o.text.heads = 2;
  o.text.layers = 1;
  o.tokenizer = Path(DIVERGEN_SOURCE_DIR) / "data/mini/models/if/tokenizer";
  o.pictures = 8;
  o.picture_size = 16;
  o.sample_steps = 2;
  return o;
}

const miniworld::World& world() {
  static const miniworld::World all(Path(DIVERGEN_SOURCE_DIR) / "data/mini");
  return all;
}

}  // namespace

TEST(HybridLoss, BoundIsZeroWhereThePosteriorIsMet) {
  const HybridLoss goal(schedule(), 5, 1);
  const at::Tensor noise = at::randn({2, 3, 4, 4}), x0 = at::rand({2, 3, 4, 4}) * 2 - 1;
  const auto terms = goal.of(at::cat({noise, at::full_like(noise, -1)}, 1), x0, noise, times(400, 2));
  EXPECT_NEAR(terms.mse.item<double>(), 0, 1e-12);
  EXPECT_NEAR(terms.bound.item<double>(), 0, 1e-6);
}

TEST(HybridLoss, BoundIsTheDivergenceOfTwoNormals) {
  const HybridLoss goal(schedule(), 5, 1);
  const std::int64_t t = 400;
  const double a = schedule().alphas_cumprod[t].item<double>(),
               before = schedule().alphas_cumprod[t - 1].item<double>();
  const double beta = schedule().betas[t].item<double>(), posterior = beta * (1 - before) / (1 - a), error = 0.5;
  const at::Tensor noise = at::zeros({1, 3, 2, 2}), x0 = at::zeros({1, 3, 2, 2});
  // The network's variance is beta (place 1); its mean follows from x0 = (x - √(1-abar)·noise)/√abar.
  const auto terms = goal.of(at::cat({noise + error, at::ones_like(noise)}, 1), x0, noise, times(t));
  const double shift = std::sqrt(before) * beta / (1 - a) * std::sqrt(1 - a) / std::sqrt(a) * error;
  const double nats = 0.5 * (std::log(beta / posterior) + (posterior + shift * shift) / beta - 1);
  EXPECT_NEAR(terms.bound.item<double>(), nats / std::numbers::ln2, 1e-4 * nats);
}

TEST(HybridLoss, AtTimeZeroAllByteValuesTogetherHaveProbabilityOne) {
  const HybridLoss goal(schedule(), 5, 1);
  const double a = schedule().alphas_cumprod[0].item<double>(), mean = 0.3;
  double sum = 0;
  for (int k = 0; k < 256; ++k) {
    const double value = k / 127.5 - 1, error = (value - mean) * std::sqrt(a) / std::sqrt(1 - a);
    const at::Tensor x0 = at::full({1, 1, 1, 1}, value, at::kFloat), noise = at::zeros_like(x0);
    const auto terms = goal.of(at::cat({noise + error, at::zeros_like(x0)}, 1), x0, noise, times(0));
    sum += std::exp2(-terms.bound.item<double>());
  }
  EXPECT_NEAR(sum, 1, 1e-3);
}

TEST(HybridLoss, OnlyTheVarianceLearnsFromTheBound) {
  const HybridLoss both(schedule(), 5, 1), plain(schedule(), 5, 0);
  const at::Tensor noise = at::randn({2, 3, 4, 4}), x0 = at::rand({2, 3, 4, 4}) * 2 - 1;
  const auto gradient = [&](const HybridLoss& goal) {
    at::Tensor output = at::full({2, 6, 4, 4}, 0.1);
    output.requires_grad_(true);
    goal.of(output, x0, noise, times(300, 2)).loss.backward();
    return output.grad();
  };
  const at::Tensor with = gradient(both), without = gradient(plain);
  EXPECT_TRUE(at::equal(with.narrow(1, 0, 3), without.narrow(1, 0, 3)));
  EXPECT_EQ(without.narrow(1, 3, 3).abs().max().item<double>(), 0);
  EXPECT_GT(with.narrow(1, 3, 3).abs().max().item<double>(), 0);
}

TEST(PretrainIf, ResumesToTheSameBitsAndStage2TakesWhatStage1Wrote) {
  const test::TemporaryFolder folder;
  PretrainOptions options;
  options.iterations = 4;
  options.batch = 2;
  options.warmup = 1;
  options.save_every = 2;
  options.sample_every = 100;
  const auto train = [&](PretrainTask& task, const std::string& name, int stop_after) {
    options.out = folder / name;
    int asked = 0;
    return pretrain(task, options, [&] { return ++asked == stop_after; }).iterations;
  };
  {
    IfStage1Task whole(world(), tiny()), first(world(), tiny()), second(world(), tiny());
    EXPECT_EQ(train(whole, "whole", -1), 4);
    EXPECT_EQ(train(first, "parts", 2), 2);
    EXPECT_EQ(train(second, "parts", -1), 4);
  }
  const Path unet = "model/unet/diffusion_pytorch_model.safetensors", t5 = "model/text_encoder/model.safetensors";
  for (const Path& file : {unet, t5})
    EXPECT_EQ(read_file((folder / "whole") / file), read_file((folder / "parts") / file)) << file;

  IfTaskOptions o = tiny();
  o.stage1 = folder / "whole/model";
  o.unet.sample_size = 16;
  o.unet.in_channels = 6;
  o.unet.class_timestep = true;
  o.small_size = o.crop = 8;
  IfStage2Task enlarging(world(), o);
  EXPECT_EQ(train(enlarging, "second", -1), 4);
  EXPECT_NO_THROW(models::load_unet(folder / "second/model/unet"));
}

}  // namespace divergen::stages
