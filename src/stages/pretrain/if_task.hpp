#pragma once
// Trains the miniature DeepFloyd-IF. Stage I: a small T5 together with its UNet, small pictures from text. Stage II: a
// UNet that enlarges stage I's pictures, with stage I's T5 as it is; it sees crops, noised at a random level which it
// is told (Saharia et al. 2022, §2.4).

#include "models/diffusion/unet2d_condition.hpp"
#include "models/t5/encoder.hpp"
#include "stages/pretrain/if_pictures.hpp"
#include "stages/pretrain/trainer.hpp"

namespace divergen::stages {

struct IfTaskOptions {
  models::UnetConfig unet;
  Path tokenizer;                 // folder with spiece.model
  std::int64_t pictures = 12000;  // how many different pictures are learnt from
  double drop_prompt = 0.1;       // share of samples that learn the empty prompt
  double snr_limit = 5;
  double bound_weight = 1;  // of the variational bound
  double sample_guidance = 3;
  std::int64_t sample_steps = 25;
  // stage I
  models::T5Config text;
  std::int64_t picture_size = 64;  // that pictures are drawn at, before they are averaged down to the UNet's size
  // stage II
  Path stage1;  // folder of the trained stage I
  std::int64_t small_size = 32, crop = 32;
  std::int64_t noise_levels = 500;  // levels below this are learnt
  std::int64_t sample_noise_level = 250;
};

class IfStage1Task : public PretrainTask {
 public:
  IfStage1Task(const miniworld::World& world, IfTaskOptions options);
  nn::Module& module() override { return both_; }
  /// Also renders the pictures to learn from, a pure function of the seed.
  void initialise(std::uint64_t seed) override;
  std::any make_batch(Rng rng, std::int64_t size) const override;
  at::Tensor loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) override;
  void sample(const Path& folder, std::int64_t iteration) override;
  void write(const Path& folder) override;  // a diffusers folder with all parts

 private:
  struct Both : nn::Module {
    explicit Both(const IfTaskOptions& options);
    models::UNet2DCondition unet;
    models::T5Encoder text;
  };
  const miniworld::World& world_;
  tokenizers::T5SentencePiece tokenizer_;
  IfTaskOptions options_;  // with the tokenizer's vocabulary
  models::ModelConfig scheduler_;
  models::NoiseSchedule schedule_;
  HybridLoss goal_;
  IfPictures pictures_;
  std::pair<at::Tensor, at::Tensor> no_text_;
  Both both_;
};

class IfStage2Task : public PretrainTask {
 public:
  IfStage2Task(const miniworld::World& world, IfTaskOptions options);
  nn::Module& module() override { return unet_; }
  void initialise(std::uint64_t seed) override;
  std::any make_batch(Rng rng, std::int64_t size) const override;
  at::Tensor loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) override;
  void sample(const Path& folder, std::int64_t iteration) override;
  void write(const Path& folder) override;  // a diffusers folder without text encoder, which is stage I's

 private:
  struct Batch {
    at::Tensor rows;         // of the pictures
    std::int64_t top, left;  // of the crop, the same in all
  };
  const miniworld::World& world_;
  IfTaskOptions options_;
  tokenizers::T5SentencePiece tokenizer_;
  std::unique_ptr<models::T5Encoder> text_;
  models::ModelConfig scheduler_;
  models::NoiseSchedule schedule_;
  HybridLoss goal_;
  IfPictures pictures_;
  at::Tensor no_text_;  // states [1, L, D]
  models::UNet2DCondition unet_;
};

}  // namespace divergen::stages
