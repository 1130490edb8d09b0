#pragma once
// The noise predictor of Stable Diffusion and DeepFloyd-IF in diffusers' naming (UNet2DConditionModel).
// Arithmetic and names: reference/generation.md §2, §3. Shapes: N samples, C channels, H W, L tokens, D features.

#include "base/fs.hpp"
#include "models/diffusion/unet_blocks.hpp"

namespace divergen::models {

/// What the network takes of a text: the same in every step of a run, so it is computed once (UNet2DCondition::text).
struct UnetText {
  at::Tensor context;  // [N, L, cross_attention_dim]
  at::Tensor added;    // [N, time_features], undefined without text_addition
};

/// Intermediate results by name, in order of computation: time_embedding, class_embedding, add_embedding,
/// time_embed_act, encoder_hid_proj, conv_in, down_<i>, mid_block, up_<i>.
using UnetTrace = std::vector<std::pair<std::string, at::Tensor>>;

struct UNet2DCondition : nn::Module {
  explicit UNet2DCondition(const UnetConfig& config);

  /// states [N, L, text_features] of the text encoder.
  UnetText text(const at::Tensor& states) const;
  /// sample [N, in, H, W], steps [N] (any number type), labels [N] (noise levels, where the network has class
  /// embeddings) -> [N, out, H, W] in the sample's type, which is the weights'.
  at::Tensor forward(const at::Tensor& sample, const at::Tensor& steps, const UnetText& text,
                     const at::Tensor& labels = {}, UnetTrace* trace = nullptr) const;
  at::Tensor forward(const at::Tensor& sample, const at::Tensor& steps, const at::Tensor& states,
                     const at::Tensor& labels = {}) const {
    return forward(sample, steps, text(states), labels);
  }

  UnetConfig config;
  nn::Conv2d conv_in;
  TimeEmbedding time_embedding;
  std::optional<nn::Linear> encoder_hid_proj;
  std::optional<TimeEmbedding> class_embedding;
  std::optional<TextTimeEmbedding> add_embedding;
  nn::List<UnetDownBlock> down_blocks;
  nn::List<UnetUpBlock> up_blocks;
  UnetMidBlock mid_block;
  nn::GroupNorm conv_norm_out;
  nn::Conv2d conv_out;

 private:
  /// Sum of time, class and text embeddings, [N, time_features].
  at::Tensor embed(const at::Tensor& steps, const UnetText& text, const at::Tensor& labels, at::ScalarType type,
                   UnetTrace* trace) const;
};

/// A diffusers folder: config.json and diffusion_pytorch_model.safetensors, or its fp16 variant. The module is made on
/// `device` as `type`. Throws Error(Io | Data).
std::unique_ptr<UNet2DCondition> load_unet(const Path& folder, at::ScalarType type = at::kFloat,
                                           at::Device device = at::kCPU);

}  // namespace divergen::models
