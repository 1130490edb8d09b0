#pragma once
// Trains the miniature Stable Diffusion's UNet together with its text encoder on latents of a trained autoencoder:
// predicted noise, mean squared error weighted by min(SNR, 5)/SNR (Hang et al., ICCV 2023), prompts dropped now and
// then.

#include "models/clip/text.hpp"
#include "models/diffusion/autoencoder_kl.hpp"
#include "models/diffusion/scheduler.hpp"
#include "models/diffusion/unet2d_condition.hpp"
#include "stages/pretrain/pictures.hpp"
#include "stages/pretrain/trainer.hpp"
#include "tokenizers/clip_bpe.hpp"

namespace divergen::stages {

struct DiffusionTaskOptions {
  models::UnetConfig unet;
  models::ClipTextConfig text;
  Path vae;                       // folder of the trained autoencoder
  Path tokenizer;                 // transformers' tokenizer folder
  std::int64_t pictures = 12000;  // how many different pictures are learnt from
  double drop_prompt = 0.1;       // share of samples that learn the empty prompt
  double snr_limit = 5;
  double sample_guidance = 3;
  std::int64_t sample_steps = 12;
};

class DiffusionTask : public PretrainTask {
 public:
  DiffusionTask(const miniworld::World& world, DiffusionTaskOptions options);

  nn::Module& module() override { return both_; }
  /// Also renders and encodes the pictures to learn from, a pure function of the seed.
  void initialise(std::uint64_t seed) override;
  std::any make_batch(Rng rng, std::int64_t size) const override;
  at::Tensor loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) override;
  void sample(const Path& folder, std::int64_t iteration) override;
  /// A diffusers folder with all parts.
  void write(const Path& folder) override;

 private:
  struct Both : nn::Module {
    Both(const DiffusionTaskOptions& options);
    models::UNet2DCondition unet;
    models::ClipTextModel text;
  };
  at::Tensor ids_of(const std::string& caption) const;
  void render_pictures(std::uint64_t seed);

  const miniworld::World& world_;
  DiffusionTaskOptions options_;
  tokenizers::ClipBpe tokenizer_;
  std::unique_ptr<models::AutoencoderKL> vae_;
  models::ModelConfig scheduler_;
  models::NoiseSchedule schedule_;
  Both both_;
  at::Tensor latents_;  // [pictures, C, h, w], scaled
  at::Tensor ids_;      // [pictures, 77]
  at::Tensor no_text_;  // [77]
};

}  // namespace divergen::stages
