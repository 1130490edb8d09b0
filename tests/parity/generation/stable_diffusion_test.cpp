// CLIP's text tower, the VAE and the UNet of Stable Diffusion against transformers and diffusers.

#include <gtest/gtest.h>

#include "models/clip/text.hpp"
#include "models/diffusion/autoencoder_kl.hpp"
#include "models/diffusion/unet2d_condition.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

// reference/generation.md §5: the reference against itself differs by up to 3.2e-6 in single forwards; gate 2e-5.
constexpr double kForward = 2e-5;

Path folder() { return test::fixtures("generation"); }

}  // namespace

TEST(clip_text, EqualsTransformers) {
  at::NoGradGuard no_grad;
  const auto model = load_clip_text(folder() / "sd_tiny/text_encoder");
  const auto expected = test::fixture_tensors(folder() / "clip_text.safetensors");

  const auto out = model->forward(expected.at("input_ids"));

  EXPECT_TENSOR_NEAR(out.last_hidden_state, expected.at("last_hidden_state"), kForward);
  EXPECT_TENSOR_NEAR(out.pooled, expected.at("pooler_output"), kForward);
}

TEST(sd_vae, EqualsDiffusers) {
  at::NoGradGuard no_grad;
  const auto model = load_vae(folder() / "sd_tiny/vae");
  const auto expected = test::fixture_tensors(folder() / "sd_vae.safetensors");

  const auto posterior = model->encode(expected.at("enc_image"));
  const auto decoded = model->decode(expected.at("latent"));

  EXPECT_TENSOR_NEAR(posterior.mean, expected.at("enc_mean"), kForward);
  EXPECT_TENSOR_NEAR(posterior.logvar, expected.at("enc_logvar"), kForward);
  EXPECT_TENSOR_NEAR(decoded, expected.at("decoded"), kForward);
}

TEST(sd_unet, EqualsDiffusers) {
  at::NoGradGuard no_grad;
  const auto model = load_unet(folder() / "sd_tiny/unet");
  const auto expected = test::fixture_tensors(folder() / "sd_unet.safetensors");
  const auto& sample = expected.at("sample");
  const auto& context = expected.at("encoder_hidden_states");

  for (const auto& [name, reference] : expected) {
    if (!name.starts_with("out_t") || name == "out_tvec") continue;
    const double step = std::stod(name.substr(5));
    EXPECT_TENSOR_NEAR(model->forward(sample, at::full({sample.size(0)}, step), context), reference, kForward) << name;
  }
  EXPECT_TENSOR_NEAR(model->forward(sample, expected.at("tvec"), context), expected.at("out_tvec"), kForward);
  for (const auto& [name, reference] : expected) {
    if (!name.starts_with("odd_out_t")) continue;
    const auto& odd = expected.at("odd_sample");
    const at::Tensor steps = at::full({odd.size(0)}, std::stod(name.substr(9)));
    EXPECT_TENSOR_NEAR(model->forward(odd, steps, context.narrow(0, 0, odd.size(0))), reference, kForward) << name;
  }
}

TEST(sd_unet, EmbedsTimestepsAsDiffusers) {
  const auto expected = test::fixture_tensors(folder() / "sd_unet.safetensors");
  for (const auto& [name, reference] : expected) {
    if (!name.starts_with("timestep_embedding_")) continue;
    const at::Tensor ours = timestep_embedding(at::tensor({0, 1, 481, 999}), reference.size(1));
    EXPECT_TENSOR_NEAR(ours, reference, 1e-6);
  }
}

}  // namespace divergen::models
