#pragma once
// The pre-norm transformer that CLIP's text and vision towers share. Keys as in transformers' CLIPEncoder.

#include <string>

#include "nn/layers.hpp"

namespace divergen::models {

enum class Activation { QuickGelu, Gelu };

/// "quick_gelu" or "gelu"; throws Error(Data) for others, naming `source`.
Activation parse_activation(const std::string& name, const std::string& source);
at::Tensor activate(const at::Tensor& x, Activation activation);

struct ClipTowerSizes {
  std::int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0;
  double eps = 1e-5;
  Activation activation = Activation::QuickGelu;
};

struct ClipAttention : nn::Module {
  explicit ClipAttention(const ClipTowerSizes& sizes);
  /// x [B, L, D] -> [B, L, D]; causal: position i sees only 0..i.
  at::Tensor forward(const at::Tensor& x, bool causal) const;
  std::int64_t heads;
  nn::Linear k_proj, v_proj, q_proj, out_proj;
};

struct ClipMlp : nn::Module {
  explicit ClipMlp(const ClipTowerSizes& sizes);
  at::Tensor forward(const at::Tensor& x) const;
  Activation activation;
  nn::Linear fc1, fc2;
};

struct ClipEncoderLayer : nn::Module {
  explicit ClipEncoderLayer(const ClipTowerSizes& sizes);
  at::Tensor forward(const at::Tensor& x, bool causal) const;
  ClipAttention self_attn;
  nn::LayerNorm layer_norm1;
  ClipMlp mlp;
  nn::LayerNorm layer_norm2;
};

struct ClipEncoder : nn::Module {
  explicit ClipEncoder(const ClipTowerSizes& sizes);
  at::Tensor forward(at::Tensor x, bool causal) const;
  nn::List<ClipEncoderLayer> layers;
};

/// transformers' initial values of the encoder: attention and MLP scaled down by depth.
void init_clip_encoder(ClipEncoder& encoder, const ClipTowerSizes& sizes, at::Generator& generator);

}  // namespace divergen::models
