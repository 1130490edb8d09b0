#pragma once
// DeepFloyd-IF: prompt -> T5 states -> stage I (pixels, small) -> stage II (super-resolution) -> picture.
// What the published pipelines do, in which order and with which noise: reference/generation.md §1, §4, §5.

#include "models/diffusion/batch_noise.hpp"
#include "models/diffusion/ddpm.hpp"
#include "models/diffusion/unet2d_condition.hpp"
#include "models/generator.hpp"
#include "models/prompt_cache.hpp"
#include "models/t5/encoder.hpp"
#include "tokenizers/t5_sentencepiece.hpp"

namespace divergen::models {

/// What the steps of one stage have in common.
struct IfCondition {
  UnetText text;        // of 2N rows, negative prompts first, where the stage is guided; else of N
  double guidance = 1;  // above 1: guided (diffusers' rule)
  at::Tensor upscaled;  // stage II: [N, C, H, W], noised; concatenated to the sample
  at::Tensor levels;    // stage II: [N] noise levels
  bool is_guided() const { return guidance > 1; }
};

/// Rows of text states for a stage: negative prompts before prompts where it is guided, prompts alone otherwise.
at::Tensor guided_states(const at::Tensor& negative, const at::Tensor& prompts, double guidance);

/// x: unit noise [N, C, H, W]; draw: the next noise of that shape, asked for once a step that adds noise, after the
/// network has been started (so that drawing overlaps with a device's work). Both halves of guidance run in one batch;
/// the variance is that of the prompt's half. `watch` (may be empty) sees the sample after every call.
at::Tensor denoise_if(const UNet2DCondition& unet, const Ddpm& ddpm, const IfCondition& condition, at::Tensor x,
                      const std::function<at::Tensor()>& draw,
                      const std::function<void(std::size_t, const at::Tensor&)>& watch = {});

/// Stage I's picture at stage II's size: bilinear with corners aligned.
at::Tensor enlarge(const at::Tensor& x, std::int64_t side);

/// T5 behind DeepFloyd-IF's text rules, with the states of every prompt seen so far. Not thread-safe.
class IfText {
 public:
  /// The text_encoder and tokenizer of a stage I folder. The network is loaded when the first text needs it.
  IfText(Path folder, bool clean, at::ScalarType type, at::Device device, std::size_t max_bytes);
  /// [1, 77, D] on the CPU.
  at::Tensor states(const std::string& text);
  /// Gives the network's memory back; a text that is not known yet loads it again.
  void free() { encoder_.reset(); }

 private:
  at::Tensor encode(const std::string& text);

  Path folder_;
  bool clean_;
  at::ScalarType type_;
  at::Device device_;
  tokenizers::T5SentencePiece tokenizer_;
  std::unique_ptr<T5Encoder> encoder_;
  PromptCache known_;
};

class DeepFloydIf : public TextToImage {
 public:
  /// Reads both stages' configurations; networks are loaded when they are first needed, so that T5 can be gone before
  /// the UNets come. Throws Error(Io | Data | Config).
  DeepFloydIf(const GeneratorSettings& settings, at::Device device);

  void prepare(std::span<const std::string> prompts) override;
  std::vector<image::Image> generate(std::span<const GenerationItem> items) override { return start(items)(); }
  std::function<std::vector<image::Image>()> start(std::span<const GenerationItem> items) override;
  const std::string& weights_hash() const override { return hash_; }

 private:
  /// A UNet with its sampler.
  struct Stage {
    Stage(const Path& folder, std::int64_t steps, const std::string& list);
    Path folder;
    UnetConfig config;
    Ddpm ddpm;
    std::unique_ptr<UNet2DCondition> unet;
  };
  at::Tensor run_stage1(const at::Tensor& negative, const at::Tensor& prompts, BatchNoise& noise) const;
  at::Tensor run_stage2(const at::Tensor& small, const at::Tensor& negative, const at::Tensor& prompts,
                        BatchNoise& noise) const;
  void load_unets();

  GeneratorSettings settings_;
  at::ScalarType type_;
  at::Device device_;
  std::string hash_;
  IfText text_;
  Stage stage1_;
  std::unique_ptr<Stage> stage2_;           // none: pictures are stage I's
  std::unique_ptr<NoiseSchedule> noising_;  // of the picture that stage II enlarges
};

}  // namespace divergen::models
