#include "models/diffusion/deepfloyd_if.hpp"

#include <ATen/ATen.h>

#include "base/text.hpp"
#include "models/diffusion/pixels.hpp"
#include "models/diffusion/timesteps.hpp"
#include "nn/channels_last.hpp"
#include "tokenizers/if_caption.hpp"

namespace divergen::models {
namespace {

Ddpm sampler(const Path& folder, std::int64_t steps, const std::string& list) {
  const ModelConfig config(folder / "scheduler/scheduler_config.json");
  return list.empty() ? Ddpm(config, steps) : Ddpm(config, named_timesteps(list));
}

void check_size(const GeneratorSettings& settings, std::int64_t side) {
  if (settings.size != 0 && settings.size != side)
    fail(ErrorKind::Config, {"the picture size does not fit the generator", cat(settings.size, " px"),
                             cat("the last stage of ", settings.name, " makes ", side, " px"), "set size = 0"});
}

}  // namespace

at::Tensor guided_states(const at::Tensor& negative, const at::Tensor& prompts, double guidance) {
  return guidance > 1 ? at::cat({negative, prompts}) : prompts;
}

at::Tensor enlarge(const at::Tensor& x, std::int64_t side) {
  return at::upsample_bilinear2d(x, {side, side}, /*align_corners=*/true);
}

at::Tensor denoise_if(const UNet2DCondition& unet, const Ddpm& ddpm, const IfCondition& condition, at::Tensor x,
                      const std::function<at::Tensor()>& draw,
                      const std::function<void(std::size_t, const at::Tensor&)>& watch) {
  const auto twice = [&](const at::Tensor& t) { return condition.is_guided() ? at::cat({t, t}) : t; };
  const at::Tensor levels = condition.levels.defined() ? twice(condition.levels) : at::Tensor();
  const auto channels = x.size(1), rows = condition.is_guided() ? 2 * x.size(0) : x.size(0);
  for (std::size_t i = 0; i < ddpm.timesteps().size(); ++i) {
    const at::Tensor input = twice(condition.upscaled.defined() ? at::cat({x, condition.upscaled}, 1) : x);
    const at::Tensor t = at::full({rows}, static_cast<double>(ddpm.timesteps()[i]), x.options().dtype(at::kFloat));
    at::Tensor output = unet.forward(input, t, condition.text, levels);
    if (condition.is_guided()) {
      const auto halves = output.chunk(2);
      const at::Tensor without = halves[0].narrow(1, 0, channels), with = halves[1].narrow(1, 0, channels);
      output = at::cat({without + condition.guidance * (with - without),
                        halves[1].narrow(1, channels, halves[1].size(1) - channels)},
                       1);
    }
    x = ddpm.step(output, i, x, ddpm.draws_noise(i) ? draw() : at::Tensor()).previous;
    if (watch) watch(i, x);
  }
  return x;
}

IfText::IfText(Path folder, bool clean, at::ScalarType type, at::Device device, std::size_t max_bytes)
    : folder_(std::move(folder)),
      clean_(clean),
      type_(type),
      device_(device),
      tokenizer_(folder_ / "tokenizer"),
      known_(max_bytes) {}

at::Tensor IfText::encode(const std::string& text) {
  if (!encoder_) encoder_ = load_t5(folder_ / "text_encoder", type_, device_);
  const auto encoded = tokenizer_.encode_padded(tokenizers::if_caption(text, clean_));
  const auto row = [&](const std::vector<std::int64_t>& values) {
    return at::tensor(values, at::kLong).unsqueeze(0).to(device_);
  };
  return encoder_->forward(row(encoded.ids), row(encoded.mask)).cpu();
}

at::Tensor IfText::states(const std::string& text) {
  // One text at a time: in a batch, its bits would depend on how many others were new.
  return known_.get(text, [this](const std::string& unknown) { return encode(unknown); });
}

DeepFloydIf::Stage::Stage(const Path& folder_, std::int64_t steps, const std::string& list)
    : folder(folder_),
      config(UnetConfig::from(ModelConfig(folder / "unet/config.json"))),
      ddpm(sampler(folder, steps, list)) {}

DeepFloydIf::DeepFloydIf(const GeneratorSettings& settings, at::Device device)
    : settings_(settings),
      type_(type_of(settings.precision)),
      device_(device),
      hash_(hash_weights(settings)),
      text_(settings.weights, settings.clean_caption, type_, device,
            settings.free_text_encoder ? PromptCache::kUnbounded : PromptCache::kDefaultBytes),
      stage1_(settings.weights, settings.steps, settings.timesteps) {
  if (settings.sampler != "ddpm")
    fail(ErrorKind::Config, {"DeepFloyd-IF is sampled with ddpm only", cat("sampler = ", settings.sampler),
                             "its variance is learned", "leave sampler out"});
  if (!settings.stage2.empty()) {
    stage2_ = std::make_unique<Stage>(settings.stage2, settings.stage2_steps, settings.stage2_timesteps);
    noising_ = std::make_unique<NoiseSchedule>(
        NoiseSchedule::from(ModelConfig(settings.stage2 / "image_noising_scheduler/scheduler_config.json")));
    if (settings.noise_level >= noising_->steps())
      fail(ErrorKind::Config, {"the noise level is above the schedule", cat("noise_level = ", settings.noise_level),
                               cat("it ends at ", noising_->steps() - 1), "lower it"});
    if (!stage2_->config.class_timestep || stage2_->config.in_channels != 2 * stage1_.config.in_channels)
      fail(ErrorKind::Data, {"the folder holds no super-resolution stage", settings.stage2.string(),
                             "its UNet takes no noise level or no second picture", "name an IF-II folder"});
  }
  check_size(settings_, (stage2_ ? *stage2_ : stage1_).config.sample_size);
}

void DeepFloydIf::prepare(std::span<const std::string> prompts) {
  if (!settings_.free_text_encoder) return;  // each will be encoded when it comes up
  at::NoGradGuard no_grad;
  text_.states(settings_.negative_prompt);
  for (const std::string& prompt : prompts) text_.states(prompt);
  text_.free();
}

void DeepFloydIf::load_unets() {
  if (stage1_.unet) return;
  stage1_.unet = load_unet(stage1_.folder / "unet", type_, device_);
  if (stage2_) stage2_->unet = load_unet(stage2_->folder / "unet", type_, device_);
  if (!prefers_channels_last(device_, type_)) return;
  nn::channels_last(*stage1_.unet);
  if (stage2_) nn::channels_last(*stage2_->unet);
}

at::Tensor DeepFloydIf::run_stage1(const at::Tensor& negative, const at::Tensor& prompts, BatchNoise& noise) const {
  IfCondition condition;
  condition.guidance = settings_.guidance;
  condition.text = stage1_.unet->text(guided_states(negative, prompts, condition.guidance));
  const auto side = stage1_.config.sample_size;
  const std::vector<std::int64_t> sizes{stage1_.config.in_channels, side, side};
  const at::Tensor start = noise.draw(sizes);
  return denoise_if(*stage1_.unet, stage1_.ddpm, condition, start, [&] { return noise.draw(sizes); });
}

at::Tensor DeepFloydIf::run_stage2(const at::Tensor& small, const at::Tensor& negative, const at::Tensor& prompts,
                                   BatchNoise& noise) const {
  IfCondition condition;
  condition.guidance = settings_.stage2_guidance;
  condition.text = stage2_->unet->text(guided_states(negative, prompts, condition.guidance));
  condition.levels = at::full({small.size(0)}, settings_.noise_level, small.options().dtype(at::kLong));
  const auto side = stage2_->config.sample_size;
  const std::vector<std::int64_t> sizes{small.size(1), side, side};
  const at::Tensor start = noise.draw(sizes);  // before the noise of the enlarged picture, as the pipeline draws them
  condition.upscaled = noising_->add_noise(enlarge(small, side), noise.draw(sizes), condition.levels);
  return denoise_if(*stage2_->unet, stage2_->ddpm, condition, start, [&] { return noise.draw(sizes); });
}

std::function<std::vector<image::Image>()> DeepFloydIf::start(std::span<const GenerationItem> items) {
  at::NoGradGuard no_grad;
  std::vector<std::uint64_t> seeds;
  std::vector<at::Tensor> rows;
  for (const GenerationItem& item : items) {
    seeds.push_back(item.seed);
    rows.push_back(text_.states(item.prompt));
  }
  const at::Tensor prompts = at::cat(rows).to(device_);
  const at::Tensor negative = text_.states(settings_.negative_prompt).to(device_).expand_as(prompts);
  load_unets();
  BatchNoise noise(seeds, type_, device_);
  const at::Tensor small = run_stage1(negative, prompts, noise);
  return start_pictures(stage2_ ? run_stage2(small, negative, prompts, noise) : small, PixelRule::Diffusers);
}

}  // namespace divergen::models
