// Whole Stable Diffusion runs against diffusers, step by step, for every sampler.

#include <gtest/gtest.h>

#include "models/diffusion/stable_diffusion.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

class sd_loop : public testing::TestWithParam<std::string> {};

// reference/generation.md §5: the reference against itself differs by 2e-6 of the largest value; gate 1e-5.
constexpr double kLoop = 1e-5;

}  // namespace

TEST_P(sd_loop, EqualsDiffusersStepByStep) {
  at::NoGradGuard no_grad;
  const Path folder = test::fixtures("generation");
  const std::string name = GetParam();
  if (!std::filesystem::exists(folder / cat("sd_loop_", name, ".safetensors")))
    GTEST_SKIP() << "no such case in this set";
  const auto expected = test::fixture_tensors(folder / cat("sd_loop_", name, ".safetensors"));
  const weights::SafetensorsFile file(folder / cat("sd_loop_", name, ".safetensors"));
  const auto unet = load_unet(folder / "sd_tiny/unet");
  const auto vae = load_vae(folder / "sd_tiny/vae");
  const auto scheduler = make_scheduler(name, ModelConfig(folder / "sd_tiny/scheduler/scheduler_config.json"),
                                        std::stoll(file.metadata().at("steps")));
  const double guidance = std::stod(file.metadata().at("guidance"));

  const at::Tensor& timesteps = expected.at("timesteps");
  ASSERT_EQ(static_cast<std::int64_t>(scheduler->timesteps().size()), timesteps.numel());
  for (std::size_t i = 0; i < scheduler->timesteps().size(); ++i)
    EXPECT_NEAR(scheduler->timesteps()[i], timesteps[static_cast<std::int64_t>(i)].item<double>(), 1e-4);
  const at::Tensor& steps = expected.at("latents_steps");
  const at::Tensor final = denoise(*unet, *scheduler, expected.at("latents_in"), expected.at("negative_prompt_embeds"),
                                   expected.at("prompt_embeds"), guidance, [&](std::size_t i, const at::Tensor& x) {
                                     const at::Tensor reference = steps[static_cast<std::int64_t>(i)];
                                     EXPECT_TENSOR_NEAR(x, reference, kLoop * reference.abs().max().item<double>())
                                         << "step " << i;
                                   });
  EXPECT_TENSOR_NEAR(final, expected.at("final_latents"), kLoop * final.abs().max().item<double>());

  const at::Tensor image = vae->decode(expected.at("final_latents") / vae->config.scaling_factor);
  const at::Tensor bytes = (image * 0.5 + 0.5).clamp(0, 1).mul(255).round().permute({0, 2, 3, 1});
  const at::Tensor difference = (bytes - expected.at("image_u8").to(at::kFloat)).abs();
  EXPECT_LE(difference.max().item<double>(), 1);
  EXPECT_LE(difference.gt(0).to(at::kFloat).mean().item<double>(), 5e-4);
}

INSTANTIATE_TEST_SUITE_P(samplers, sd_loop, testing::ValuesIn(scheduler_names()),
                         [](const auto& info) { return info.param; });

}  // namespace divergen::models
