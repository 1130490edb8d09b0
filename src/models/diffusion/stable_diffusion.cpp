#include "models/diffusion/stable_diffusion.hpp"

#include "models/diffusion/batch_noise.hpp"
#include "models/diffusion/noise.hpp"
#include "models/diffusion/pixels.hpp"
#include "nn/channels_last.hpp"

namespace divergen::models {

at::Tensor denoise(const UNet2DCondition& unet, Scheduler& scheduler, const at::Tensor& latents,
                   const at::Tensor& negative_text, const at::Tensor& text, double guidance,
                   const std::function<void(std::size_t, const at::Tensor&)>& watch) {
  const UnetText context = unet.text(at::cat({negative_text, text}));
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
  at::Generator generator = noise_generator(seed);
  return draw_noise(generator, sizes);
}

StableDiffusion::StableDiffusion(const GeneratorSettings& settings, at::Device device)
    : settings_(settings),
      type_(type_of(settings.precision)),
      device_(device),
      hash_(hash_weights(settings)),
      scheduler_config_(settings.weights / "scheduler/scheduler_config.json"),
      tokenizer_(settings.weights / "tokenizer"),
      text_(load_clip_text(settings.weights / "text_encoder")),
      unet_(load_unet(settings.weights / "unet", type_, device)),
      vae_(load_vae(settings.weights / "vae")),
      decoding_(device) {
  const auto options = at::TensorOptions().dtype(type_).device(device);
  text_->to(options);
  vae_->to(options);
  if (prefers_channels_last(device, type_)) {
    nn::channels_last(*unet_);
    nn::channels_last(*vae_);
  }
  const auto multiple = vae_->config.downscale();
  if (settings_.size == 0) settings_.size = unet_->config.sample_size * multiple;
  if (settings_.size % multiple != 0)
    fail(ErrorKind::Config, {"the picture size does not fit the generator", cat(settings_.size, " px"),
                             cat("it is not a multiple of ", multiple), "choose a multiple"});
  make_scheduler(settings_.sampler, scheduler_config_,
                 settings_.steps);  // refuse a bad sampler now, not at the first item
}

at::Tensor StableDiffusion::text_states(const std::string& prompt) {
  // One prompt at a time: in a batch, its bits would depend on how many others were new.
  return prompts_.get(prompt, [this](const std::string& text) {
    const at::Tensor ids = at::tensor(tokenizer_.encode_padded(text), at::kLong).unsqueeze(0).to(device_);
    return text_->forward(ids).last_hidden_state;
  });
}

std::function<std::vector<image::Image>()> StableDiffusion::start(std::span<const GenerationItem> items) {
  at::NoGradGuard no_grad;
  const auto side = settings_.size / vae_->config.downscale();
  const at::Tensor negative = text_states(settings_.negative_prompt);
  std::vector<at::Tensor> texts;
  std::vector<std::uint64_t> seeds;
  for (const GenerationItem& item : items) {
    seeds.push_back(item.seed);
    texts.push_back(text_states(item.prompt));
  }
  const at::Tensor prompts = at::cat(texts);
  const at::Tensor noise = BatchNoise(seeds, type_, device_).draw({unet_->config.in_channels, side, side});
  const auto scheduler = make_scheduler(settings_.sampler, scheduler_config_, settings_.steps);
  const at::Tensor latents =
      denoise(*unet_, *scheduler, noise, negative.expand_as(prompts), prompts, settings_.guidance);
  return decoding_.run({latents}, [&] {
    return start_pictures(vae_->decode(latents / vae_->config.scaling_factor), PixelRule::Diffusers);
  });
}

}  // namespace divergen::models
