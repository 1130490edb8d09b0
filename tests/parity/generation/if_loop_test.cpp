// Whole runs of DeepFloyd-IF's stages against diffusers, with the reference's own noise.

#include <gtest/gtest.h>

#include "models/diffusion/deepfloyd_if.hpp"
#include "models/diffusion/noise.hpp"
#include "models/diffusion/pixels.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

// reference/generation.md §5: the reference against itself differs by up to 1.7e-3 over a whole run (1/√abar is large
// at the start, and the threshold feeds back); gate 5e-3. One step from the reference's own sample is tight.
constexpr double kLoop = 5e-3, kStep = 5e-4;

struct Case {
  explicit Case(int number)
      : stage(number),
        expected(test::fixture_tensors(folder() / cat("if_stage", number, "_loop.safetensors"))),
        unet(load_unet(folder() / cat("if_tiny/stage", number, "/unet"))),
        ddpm(ModelConfig(folder() / cat("if_tiny/stage", number, "/scheduler/scheduler_config.json")),
             expected.at("timesteps").size(0)) {
    const weights::SafetensorsFile file(folder() / cat("if_stage", number, "_loop.safetensors"));
    condition.guidance = std::stod(file.metadata().at("guidance"));
    condition.text = unet->text(
        guided_states(expected.at("negative_prompt_embeds"), expected.at("prompt_embeds"), condition.guidance));
    if (number == 1) return;
    condition.upscaled = expected.at("upscaled_noised");
    condition.levels =
        at::full({expected.at("image").size(0)}, std::stoll(file.metadata().at("noise_level")), at::kLong);
  }
  static Path folder() { return test::fixtures("generation"); }
  /// The reference's draws, in order.
  std::function<at::Tensor()> noise(std::int64_t first = 0) const {
    return [this, next = first]() mutable { return expected.at("noise_steps")[next++]; };
  }

  int stage;
  nn::TensorMap expected;
  std::unique_ptr<UNet2DCondition> unet;
  Ddpm ddpm;
  IfCondition condition;
};

/// The rule itself is exact; our picture's bytes lie within what the gate allows around the reference's floats.
void check_bytes(const at::Tensor& ours, const at::Tensor& reference, const at::Tensor& reference_bytes) {
  EXPECT_TRUE(at::equal(to_bytes(reference), reference_bytes));
  const at::Tensor bytes = to_bytes(ours);
  EXPECT_TRUE(bytes.ge(to_bytes(reference - kLoop)).all().item<bool>());
  EXPECT_TRUE(bytes.le(to_bytes(reference + kLoop)).all().item<bool>());
}

void check_run(const Case& c) {
  std::vector<at::Tensor> samples;
  std::int64_t drawn = 0;
  const auto noise = c.noise();
  const at::Tensor final = denoise_if(
      *c.unet, c.ddpm, c.condition, c.expected.at("noise_init"),
      [&] {
        ++drawn;
        return noise();
      },
      [&](std::size_t, const at::Tensor& x) { samples.push_back(x); });
  EXPECT_EQ(drawn, c.expected.at("noise_steps").size(0));
  const at::Tensor& stored = c.expected.at("x_steps");
  for (std::int64_t i = 0; i < stored.size(0); ++i) {
    const auto step = c.expected.contains("x_steps_index") ? c.expected.at("x_steps_index")[i].item<std::int64_t>() : i;
    EXPECT_TENSOR_NEAR(samples.at(static_cast<std::size_t>(step)), stored[i], kLoop) << "step " << step;
  }
  EXPECT_TENSOR_NEAR(final, c.expected.at("image"), kLoop);
  check_bytes(final, c.expected.at("image"), c.expected.at("image_u8"));
}

/// One call of the network and the sampler from the reference's sample before it.
at::Tensor one_step(const Case& c, std::size_t i, const at::Tensor& before) {
  std::vector<std::int64_t> rest;  // the sampler's own list from here on
  for (std::size_t k = i; k < c.ddpm.timesteps().size(); ++k) rest.push_back(c.ddpm.timesteps()[k]);
  const ModelConfig config(Case::folder() / cat("if_tiny/stage", c.stage, "/scheduler/scheduler_config.json"));
  struct Done {};
  at::Tensor after;
  try {
    denoise_if(*c.unet, Ddpm(config, rest), c.condition, before, c.noise(static_cast<std::int64_t>(i)),
               [&](std::size_t, const at::Tensor& x) {
                 after = x;
                 throw Done();
               });
  } catch (const Done&) {
  }
  return after;
}

}  // namespace

TEST(if_stage1_loop, EqualsDiffusers) {
  at::NoGradGuard no_grad;
  check_run(Case(1));
}

TEST(if_stage1_loop, EqualsDiffusersInEveryStepAlone) {
  at::NoGradGuard no_grad;
  const Case c(1);
  const at::Tensor& stored = c.expected.at("x_steps");
  for (std::int64_t i = 0; i < stored.size(0); ++i) {
    const at::Tensor before = i == 0 ? c.expected.at("noise_init") : stored[i - 1];
    const double scale = std::max(1.0, stored[i].abs().max().item<double>());
    EXPECT_TENSOR_NEAR(one_step(c, static_cast<std::size_t>(i), before), stored[i], kStep * scale) << "step " << i;
  }
}

TEST(if_stage2_loop, EnlargesAndNoisesAsDiffusers) {
  const Case c(2);
  const at::Tensor upscaled = enlarge(c.expected.at("image_in"), c.expected.at("image").size(2));
  EXPECT_TENSOR_NEAR(upscaled, c.expected.at("upscaled"), 1e-6);
  const NoiseSchedule noising =
      NoiseSchedule::from(ModelConfig(Case::folder() / "if_tiny/stage2/image_noising_scheduler/scheduler_config.json"));
  EXPECT_TENSOR_NEAR(noising.add_noise(upscaled, c.expected.at("noise_upscaled"), c.condition.levels),
                     c.expected.at("upscaled_noised"), 1e-6);
}

TEST(if_stage2_loop, EqualsDiffusers) {
  at::NoGradGuard no_grad;
  check_run(Case(2));
}

TEST(if_stage2_loop, EqualsDiffusersInStepsAlone) {
  at::NoGradGuard no_grad;
  const Case c(2);
  const at::Tensor& index = c.expected.at("x_steps_index");
  int checked = 0;
  for (std::int64_t i = 0; i < index.size(0); ++i) {
    const auto step = index[i].item<std::int64_t>();
    const bool follows = step == 0 || (i > 0 && index[i - 1].item<std::int64_t>() == step - 1);
    if (!follows) continue;  // the file leaves steps out
    const at::Tensor before = step == 0 ? c.expected.at("noise_init") : c.expected.at("x_steps")[i - 1];
    const at::Tensor& after = c.expected.at("x_steps")[i];
    const double scale = std::max(1.0, after.abs().max().item<double>());
    EXPECT_TENSOR_NEAR(one_step(c, static_cast<std::size_t>(step), before), after, kStep * scale) << "step " << step;
    ++checked;
  }
  EXPECT_GE(checked, 1);
}

TEST(if_loop, DrawsTheReferencesNoiseFromItsSeed) {
  // One generator for a batch of one item: the documented order is start, a draw a step, and then stage II's.
  const Case c(1);
  const weights::SafetensorsFile file(Case::folder() / "if_stage1_loop.safetensors");
  at::Generator generator = noise_generator(std::stoull(file.metadata().at("seed")));
  EXPECT_TENSOR_NEAR(draw_noise(generator, c.expected.at("noise_init").sizes()), c.expected.at("noise_init"), 0);
  for (std::int64_t i = 0; i < c.expected.at("noise_steps").size(0); ++i) {
    const at::Tensor reference = c.expected.at("noise_steps")[i];
    EXPECT_TENSOR_NEAR(draw_noise(generator, reference.sizes()), reference, 0) << i;
  }
  const Case d(2);
  for (const char* name : {"noise_init", "noise_upscaled"})
    EXPECT_TENSOR_NEAR(draw_noise(generator, d.expected.at(name).sizes()), d.expected.at(name), 0) << name;
  EXPECT_TENSOR_NEAR(draw_noise(generator, d.expected.at("noise_steps")[0].sizes()), d.expected.at("noise_steps")[0],
                     0);
}

}  // namespace divergen::models
