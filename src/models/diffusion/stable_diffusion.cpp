#include "models/diffusion/stable_diffusion.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include <cstring>

namespace divergen::models {
namespace {

constexpr std::size_t kMaxCachedPrompts = 4096;

/// diffusers' rule: (x/2 + 0.5) clamped, times 255, rounded half to even (reference/generation.md §8).
std::vector<image::Image> to_pictures(const at::Tensor& x) {
  const at::Tensor bytes = (x * 0.5 + 0.5)
                               .clamp(0, 1)
                               .to(at::kFloat)
                               .mul(255)
                               .round()
                               .to(at::kByte)
                               .permute({0, 2, 3, 1})
                               .contiguous()
                               .cpu();
  std::vector<image::Image> out;
  for (std::int64_t i = 0; i < bytes.size(0); ++i) {
    image::Image picture(static_cast<int>(bytes.size(1)), static_cast<int>(bytes.size(2)),
                         static_cast<int>(bytes.size(3)));
    std::memcpy(picture.pixels.data(), bytes[i].const_data_ptr(), picture.pixels.size());
    out.push_back(std::move(picture));
  }
  return out;
}

}  // namespace

at::Tensor denoise(const UNet2DCondition& unet, Scheduler& scheduler, const at::Tensor& latents,
                   const at::Tensor& negative_text, const at::Tensor& text, double guidance,
                   const std::function<void(std::size_t, const at::Tensor&)>& watch) {
  const at::Tensor context = at::cat({negative_text, text});
  at::Tensor x = latents * scheduler.init_noise_sigma();
  const auto& steps = scheduler.timesteps();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const at::Tensor input = scheduler.scale_input(at::cat({x, x}), i);
    const at::Tensor t = at::full({input.size(0)}, steps[i], input.options().dtype(at::kFloat));
    const auto halves = unet.forward(input, t, context).chunk(2);
    x = scheduler.step(halves[0] + guidance * (halves[1] - halves[0]), i, x);
    if (watch) watch(i, x);
  }
  return x;
}

at::Tensor item_noise(std::uint64_t seed, at::IntArrayRef sizes) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(sizes, generator);
}

StableDiffusion::StableDiffusion(const GeneratorSettings& settings)
    : settings_(settings),
      hash_(hash_weights(settings.weights)),
      scheduler_config_(settings.weights / "scheduler/scheduler_config.json"),
      tokenizer_(settings.weights / "tokenizer"),
      text_(load_clip_text(settings.weights / "text_encoder")),
      unet_(load_unet(settings.weights / "unet")),
      vae_(load_vae(settings.weights / "vae")) {
  const auto multiple = vae_->config.downscale();
  if (settings_.size == 0) settings_.size = unet_->config.sample_size * multiple;
  if (settings_.size % multiple != 0)
    fail(ErrorKind::Config, {"the picture size does not fit the generator", cat(settings_.size, " px"),
                             cat("it is not a multiple of ", multiple), "choose a multiple"});
  make_scheduler(settings_.sampler, scheduler_config_,
                 settings_.steps);  // refuse a bad sampler now, not at the first item
}

const at::Tensor& StableDiffusion::text_states(const std::string& prompt) {
  const auto found = states_.find(prompt);
  if (found != states_.end()) return found->second;
  if (states_.size() >= kMaxCachedPrompts) states_.clear();
  const auto ids = tokenizer_.encode_padded(prompt);
  const at::Tensor batch = at::tensor(ids, at::kLong).unsqueeze(0);
  return states_[prompt] = text_->forward(batch).last_hidden_state;
}

std::vector<image::Image> StableDiffusion::generate(std::span<const GenerationItem> items) {
  at::NoGradGuard no_grad;
  const auto side = settings_.size / vae_->config.downscale();
  const auto channels = unet_->config.in_channels;
  const at::Tensor negative = text_states(settings_.negative_prompt);
  std::vector<at::Tensor> noise, texts, negatives;
  for (const GenerationItem& item : items) {
    noise.push_back(item_noise(item.seed, {1, channels, side, side}));
    texts.push_back(text_states(item.prompt));
    negatives.push_back(negative);
  }
  const auto scheduler = make_scheduler(settings_.sampler, scheduler_config_, settings_.steps);
  const at::Tensor latents =
      denoise(*unet_, *scheduler, at::cat(noise), at::cat(negatives), at::cat(texts), settings_.guidance);
  return to_pictures(vae_->decode(latents / vae_->config.scaling_factor));
}

}  // namespace divergen::models
