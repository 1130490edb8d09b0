#pragma once
// Stable Diffusion: prompt -> text states -> denoised latents -> picture. A diffusers folder gives the parts.

#include "models/clip/text.hpp"
#include "models/diffusion/autoencoder_kl.hpp"
#include "models/diffusion/scheduler.hpp"
#include "models/diffusion/unet2d_condition.hpp"
#include "models/generator.hpp"
#include "models/prompt_cache.hpp"
#include "nn/side_stream.hpp"
#include "tokenizers/clip_bpe.hpp"

namespace divergen::models {

/// Runs the sampler with classifier-free guidance, both halves in one batch ([negative, prompt], as diffusers orders
/// them). latents: unit noise [N, C, h, w]; texts [N, L, D]; watch (may be empty) sees the latents after every call.
at::Tensor denoise(const UNet2DCondition& unet, Scheduler& scheduler, const at::Tensor& latents,
                   const at::Tensor& negative_text, const at::Tensor& text, double guidance,
                   const std::function<void(std::size_t, const at::Tensor&)>& watch = {});

/// Unit noise of one item in float32, from its seed alone: [1, C, h, w].
at::Tensor item_noise(std::uint64_t seed, at::IntArrayRef sizes);

class StableDiffusion : public TextToImage {
 public:
  /// Throws Error(Io | Data | Config).
  explicit StableDiffusion(const GeneratorSettings& settings, at::Device device = at::kCPU);

  std::vector<image::Image> generate(std::span<const GenerationItem> items) override { return start(items)(); }
  std::function<std::vector<image::Image>()> start(std::span<const GenerationItem> items) override;
  const std::string& weights_hash() const override { return hash_; }

 private:
  at::Tensor text_states(const std::string& prompt);  // [1, 77, D]

  GeneratorSettings settings_;
  at::ScalarType type_;
  at::Device device_;
  std::string hash_;
  ModelConfig scheduler_config_;
  tokenizers::ClipBpe tokenizer_;
  std::unique_ptr<ClipTextModel> text_;
  std::unique_ptr<UNet2DCondition> unet_;
  std::unique_ptr<AutoencoderKL> vae_;
  nn::SideStream decoding_;  // of one batch's latents beside the denoising of the next
  PromptCache prompts_;
};

}  // namespace divergen::models
