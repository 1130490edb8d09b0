#pragma once
// CLIP in transformers' naming (CLIPModel): both towers, projections, and its picture preprocessing.
// Arithmetic: reference/generation.md §2, §3, §7.

#include "image/image.hpp"
#include "models/clip/text.hpp"

namespace divergen::models {

struct ClipVisionConfig {
  std::int64_t hidden_size = 1024, intermediate_size = 4096, layers = 24, heads = 16, patch_size = 14, image_size = 224;
  double eps = 1e-5;
  Activation activation = Activation::QuickGelu;

  static ClipVisionConfig from(const ModelConfig& config);
  nlohmann::json to_json() const;
  std::int64_t tokens() const { return (image_size / patch_size) * (image_size / patch_size) + 1; }
};

struct ClipVisionEmbeddings : nn::Module {
  explicit ClipVisionEmbeddings(const ClipVisionConfig& config);
  at::Tensor class_embedding;  // [D]
  at::Tensor position_ids;     // [1, tokens]
  nn::Conv2d patch_embedding;
  nn::Embedding position_embedding;
};

struct ClipVisionTransformer : nn::Module {
  explicit ClipVisionTransformer(const ClipVisionConfig& config);
  /// [B, 3, size, size] normalised -> pooled [B, D] (class token after the last norm).
  at::Tensor forward(const at::Tensor& images) const;
  ClipVisionConfig config;
  ClipVisionEmbeddings embeddings;
  nn::LayerNorm pre_layrnorm;  // the official spelling
  ClipEncoder encoder;
  nn::LayerNorm post_layernorm;
};

struct Clip : nn::Module {
  Clip(const ClipTextConfig& text, const ClipVisionConfig& vision, std::int64_t projection);
  at::Tensor image_features(const at::Tensor& images) const;  // [B, projection], not normalised
  at::Tensor text_features(const at::Tensor& ids) const;

  at::Tensor logit_scale;  // scalar; logits are exp(logit_scale)·cosine
  ClipTextTransformer text_model;
  ClipVisionTransformer vision_model;
  nn::Linear visual_projection, text_projection;
};

/// The vision tower alone with its projection (transformers' CLIPVisionModelWithProjection).
struct ClipVisionModel : nn::Module {
  ClipVisionModel(const ClipVisionConfig& vision, std::int64_t projection);
  at::Tensor image_features(const at::Tensor& images) const;
  ClipVisionTransformer vision_model;
  nn::Linear visual_projection;
};
/// From the folder of a whole CLIP (its text tower is left aside) or of a vision model alone.
std::unique_ptr<ClipVisionModel> load_clip_vision(const Path& folder);

void init_clip(Clip& clip, at::Generator& generator);

/// A transformers folder: config.json (text_config, vision_config, projection_dim) and model.safetensors.
std::unique_ptr<Clip> load_clip(const Path& folder);
nlohmann::json clip_config_json(const ClipTextConfig& text, const ClipVisionConfig& vision, std::int64_t projection);

/// Short side to `size` (bicubic as Pillow), centre crop, mean and deviation of CLIP -> [1, 3, size, size].
at::Tensor prepare_for_clip(const image::Image& rgb, std::int64_t size);

}  // namespace divergen::models
