#pragma once
// CLIP's text tower in transformers' naming (CLIPTextModel): Stable Diffusion's text encoder, and half of CLIP.
// Arithmetic: reference/generation.md §2, §3. Shapes: B prompts, L tokens (77), D features, H heads.

#include "base/fs.hpp"
#include "models/clip/transformer.hpp"
#include "models/config_json.hpp"

namespace divergen::models {

struct ClipTextConfig {
  std::int64_t vocab_size = 49408;
  std::int64_t hidden_size = 768;
  std::int64_t intermediate_size = 3072;
  std::int64_t layers = 12;
  std::int64_t heads = 12;
  std::int64_t positions = 77;
  double eps = 1e-5;
  Activation activation = Activation::QuickGelu;
  std::int64_t eos_token_id = 2;  // 2: the published files' value, which means "pool at the largest id"

  static ClipTextConfig from(const ModelConfig& config);
  nlohmann::json to_json() const;
};

struct ClipTextEmbeddings : nn::Module {
  explicit ClipTextEmbeddings(const ClipTextConfig& config);
  at::Tensor position_ids;  // [1, L], not saved by newer writers
  nn::Embedding token_embedding, position_embedding;
};

/// Keys embeddings.*, encoder.*, final_layer_norm.*
struct ClipTextTransformer : nn::Module {
  explicit ClipTextTransformer(const ClipTextConfig& config);

  struct Output {
    at::Tensor last_hidden_state;  // [B, L, D] after the final norm
    at::Tensor pooled;             // [B, D], the state at the end-of-text token
  };
  /// ids [B, L] int64.
  Output forward(const at::Tensor& ids) const;

  ClipTextConfig config;
  ClipTextEmbeddings embeddings;
  ClipEncoder encoder;
  nn::LayerNorm final_layer_norm;
};

/// The same under the key prefix text_model., as the folders have it.
struct ClipTextModel : nn::Module {
  explicit ClipTextModel(const ClipTextConfig& config) : text_model(config) { child("text_model", text_model); }
  ClipTextTransformer::Output forward(const at::Tensor& ids) const { return text_model.forward(ids); }
  ClipTextTransformer text_model;
};

/// Whether a key may be absent from, or present only in, files of some writers.
bool is_optional_clip_key(const std::string& key);

/// transformers' initial values (initializer_factor 1), drawn from `generator`.
void init_clip_text(ClipTextTransformer& model, at::Generator& generator);

/// A folder with config.json and model.safetensors.
std::unique_ptr<ClipTextModel> load_clip_text(const Path& folder);

}  // namespace divergen::models
