#include "stages/pretrain/diffusion_task.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include "base/log.hpp"
#include "models/diffusion/stable_diffusion.hpp"
#include "nn/tensor_io.hpp"
#include "stages/pretrain/layout.hpp"

namespace divergen::stages {
namespace {

constexpr std::int64_t kEncodeBatch = 100;

/// The published scheduler configuration of Stable Diffusion 1.5 (reference/generation.md §2).
nlohmann::json scheduler_json() {
  return {{"_class_name", "PNDMScheduler"}, {"beta_end", 0.012},      {"beta_schedule", "scaled_linear"},
          {"beta_start", 0.00085},          {"clip_sample", false},   {"num_train_timesteps", 1000},
          {"set_alpha_to_one", false},      {"skip_prk_steps", true}, {"steps_offset", 1},
          {"trained_betas", nullptr}};
}

nlohmann::json model_index_json() {
  return {{"_class_name", "StableDiffusionPipeline"},
          {"feature_extractor", {nullptr, nullptr}},
          {"image_encoder", {nullptr, nullptr}},
          {"requires_safety_checker", false},
          {"safety_checker", {nullptr, nullptr}},
          {"scheduler", {"diffusers", "PNDMScheduler"}},
          {"text_encoder", {"transformers", "CLIPTextModel"}},
          {"tokenizer", {"transformers", "CLIPTokenizer"}},
          {"unet", {"diffusers", "UNet2DConditionModel"}},
          {"vae", {"diffusers", "AutoencoderKL"}}};
}

void write_json(const Path& file, const nlohmann::json& json) { write_file_atomic(file, json.dump(2) + "\n"); }

}  // namespace

DiffusionTask::Both::Both(const DiffusionTaskOptions& o) : unet(o.unet), text(o.text) {
  child("unet", unet);
  child("text", text);
}

DiffusionTask::DiffusionTask(const miniworld::World& world, DiffusionTaskOptions options)
    : world_(world),
      options_(std::move(options)),
      tokenizer_(options_.tokenizer),
      vae_(models::load_vae(options_.vae)),
      scheduler_(scheduler_json(), "scheduler"),
      schedule_(models::NoiseSchedule::from(scheduler_)),
      both_(options_) {
  no_text_ = ids_of("");
}

at::Tensor DiffusionTask::ids_of(const std::string& caption) const {
  return at::tensor(tokenizer_.encode_padded(caption), at::kLong);
}

void DiffusionTask::render_pictures(std::uint64_t seed) {
  at::NoGradGuard no_grad;
  const auto sprites = named_sprites(world_);
  const int side = static_cast<int>(options_.unet.sample_size * vae_->config.downscale());
  std::vector<at::Tensor> latents, ids;
  for (std::int64_t first = 0; first < options_.pictures; first += kEncodeBatch) {
    std::vector<image::Image> images;
    for (std::int64_t i = first; i < std::min(first + kEncodeBatch, options_.pictures); ++i) {
      Rng rng(derive_seed(seed, "picture", {static_cast<std::uint64_t>(i)}));
      // Categories first, then their looks: a category with two looks is not learnt twice as often.
      const auto& category = world_.categories()[static_cast<std::size_t>(i) % world_.categories().size()];
      const std::size_t sprite = category.sprites[rng.below(category.sprites.size())];
      auto picture = miniworld::make_picture(world_, sprite, miniworld::random_description(rng), side, rng);
      ids.push_back(ids_of(picture.caption));
      images.push_back(std::move(picture.rgb));
    }
    std::vector<const image::Image*> pointers;
    for (const auto& image : images) pointers.push_back(&image);
    latents.push_back(vae_->encode(to_unit_range(pointers)).mean * vae_->config.scaling_factor);
  }
  latents_ = at::cat(latents);
  ids_ = at::stack(ids);
}

void DiffusionTask::initialise(std::uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  nn::init_default(both_.unet, generator);
  models::init_clip_text(both_.text.text_model, generator);
  render_pictures(derive_seed(seed, "pictures"));
  at::NoGradGuard no_grad;
  // Rows of the vocabulary that no caption uses never learn anything: they stay zero, not noise.
  auto& table = both_.text.text_model.embeddings.token_embedding.weight;
  at::Tensor used = at::zeros({table.size(0)}, at::kBool);
  used.index_fill_(0, ids_.flatten(), true);
  used.index_fill_(0, no_text_, true);
  table.mul_(used.unsqueeze(1));
  both_.unet.conv_out.weight.zero_();
  both_.unet.conv_out.bias.zero_();
  log::info(options_.pictures, " pictures rendered and encoded");
}

std::any DiffusionTask::make_batch(Rng rng, std::int64_t size) const {
  at::Tensor rows = at::empty({size}, at::kLong);
  for (std::int64_t i = 0; i < size; ++i)
    rows[i] = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(options_.pictures)));
  return rows;
}

at::Tensor DiffusionTask::loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const auto& rows = std::any_cast<const at::Tensor&>(batch);
  const at::Tensor x = latents_.index_select(0, rows);
  const at::Tensor dropped = at::rand({rows.size(0)}, generator).lt(options_.drop_prompt);
  const at::Tensor ids = at::where(dropped.unsqueeze(1), no_text_.unsqueeze(0), ids_.index_select(0, rows));
  const at::Tensor t = at::randint(schedule_.steps(), {rows.size(0)}, generator, at::kLong);
  const at::Tensor noise = at::randn(x.sizes(), generator);
  const at::Tensor context = both_.text.forward(ids).last_hidden_state;
  const at::Tensor predicted = both_.unet.forward(schedule_.add_noise(x, noise, t), t, context);
  const at::Tensor error = (predicted - noise).pow(2).mean({1, 2, 3});
  const at::Tensor a = schedule_.alphas_cumprod.index_select(0, t);
  const at::Tensor snr = a / (1 - a);
  terms["mse"] = error.detach().mean();
  return (error * snr.clamp_max(options_.snr_limit) / snr).mean();
}

void DiffusionTask::sample(const Path& folder, std::int64_t iteration) {
  constexpr std::uint64_t kSampleSeed = 9;
  std::vector<at::Tensor> texts, noise;
  Rng rng(kSampleSeed);
  const auto side = options_.unet.sample_size, channels = options_.unet.in_channels;
  std::uint64_t n = 0;
  for (const auto& category : world_.categories()) {
    miniworld::Description plain, rich = miniworld::random_description(rng);
    rich.is_template = false;
    for (const auto& description : {plain, rich}) {
      texts.push_back(
          both_.text
              .forward(ids_of(miniworld::caption_of(category.name, category.definition, description)).unsqueeze(0))
              .last_hidden_state);
      noise.push_back(models::item_noise(kSampleSeed + n++, {1, channels, side, side}));
    }
  }
  const at::Tensor none = both_.text.forward(no_text_.unsqueeze(0))
                              .last_hidden_state.expand({static_cast<std::int64_t>(texts.size()), -1, -1});
  const auto scheduler = models::make_scheduler("dpmpp", scheduler_, options_.sample_steps);
  const at::Tensor latents =
      models::denoise(both_.unet, *scheduler, at::cat(noise), none, at::cat(texts), options_.sample_guidance);
  const auto images = to_images(vae_->decode(latents / vae_->config.scaling_factor));
  write_file_atomic(folder / cat("sample-", iteration, ".png"), image::encode_png(mosaic(images, 16)));
}

void DiffusionTask::write(const Path& folder) {
  for (const char* part : {"unet", "text_encoder", "scheduler"}) make_folder(folder / part);
  write_json(folder / "model_index.json", model_index_json());
  write_json(folder / "scheduler/scheduler_config.json", scheduler_json());
  write_json(folder / "unet/config.json", options_.unet.to_json());
  write_json(folder / "text_encoder/config.json", options_.text.to_json());
  nn::save_module(both_.unet, folder / "unet/diffusion_pytorch_model.safetensors", at::kHalf, {{"format", "pt"}});
  nn::save_module(both_.text, folder / "text_encoder/model.safetensors", at::kHalf, {{"format", "pt"}});
  copy_files(options_.vae, folder / "vae");
  copy_files(options_.tokenizer, folder / "tokenizer");
}

}  // namespace divergen::stages
