// Channels innermost (what GPUs want) is another order in memory, not another result.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "models/diffusion/autoencoder_kl.hpp"
#include "models/diffusion/unet2d_condition.hpp"
#include "models/generator.hpp"
#include "nn/channels_last.hpp"
#include "nn/side_stream.hpp"

namespace divergen::models {
namespace {

const Path kModels = Path(DIVERGEN_SOURCE_DIR) / "data/mini/models";

void expect_close(const at::Tensor& ours, const at::Tensor& expected) {
  ASSERT_EQ(ours.sizes(), expected.sizes());
  const double largest = expected.abs().max().item<double>();
  ASSERT_GT(largest, 0);
  EXPECT_LE((ours - expected).abs().max().item<double>(), 2e-5 * largest);
}

TEST(ChannelsLast, GivesTheUnetsNoise) {
  const at::NoGradGuard no_grad;
  const auto unet = load_unet(kModels / "sd/unet", at::kFloat, at::kCPU);
  const auto side = unet->config.sample_size;
  const at::Tensor x = at::randn({2, unet->config.in_channels, side, side}), t = at::full({2}, 400.0);
  const at::Tensor text = at::randn({2, 77, unet->config.text_features()});
  const at::Tensor expected = unet->forward(x, t, text);
  nn::channels_last(*unet);
  const at::Tensor ours = unet->forward(x, t, text);
  EXPECT_TRUE(ours.is_contiguous(at::MemoryFormat::ChannelsLast)) << "the order was lost on the way";
  expect_close(ours, expected);
}

TEST(ChannelsLast, GivesTheDecodersPicture) {
  const at::NoGradGuard no_grad;
  const auto vae = load_vae(kModels / "sd/vae");
  const at::Tensor latents = at::randn({2, vae->config.latent_channels, 8, 8});
  const at::Tensor expected = vae->decode(latents);
  nn::channels_last(*vae);
  expect_close(vae->decode(latents), expected);
}

TEST(ChannelsLast, IsForHalfTypesOnDevices) {
  EXPECT_FALSE(prefers_channels_last(at::kCPU, at::kBFloat16));
  EXPECT_FALSE(prefers_channels_last(at::Device(at::kCUDA, 0), at::kFloat));
  EXPECT_TRUE(prefers_channels_last(at::Device(at::kCUDA, 0), at::kHalf));
}

TEST(SideStream, RunsAtOnceOnTheCpuAndPassesOnWhatIsThrown) {
  nn::SideStream side(at::kCPU);
  const at::Tensor x = at::ones({3});
  EXPECT_EQ(side.run({x}, [&] { return x.sum().item<double>(); }), 3);
  EXPECT_THROW(side.run({x}, [&]() -> int { throw std::runtime_error("no"); }), std::runtime_error);
}

}  // namespace
}  // namespace divergen::models
