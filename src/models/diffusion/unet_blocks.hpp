#pragma once
// What UNet2DConditionModel is made of: attention over pixels and text, embeddings, and the blocks of a level.
// Arithmetic and names: reference/generation.md §2, §3. Shapes: N samples, C channels, H W, L tokens, D features.

#include "models/diffusion/unet_config.hpp"

namespace divergen::models {

struct CrossAttention : nn::Module {
  CrossAttention(std::int64_t query_dim, std::int64_t context_dim, std::int64_t heads);
  /// x [N, L, query_dim], context [N, M, context_dim] -> [N, L, query_dim].
  at::Tensor forward(const at::Tensor& x, const at::Tensor& context) const;
  std::int64_t heads;
  nn::Linear to_q, to_k, to_v;
  nn::List<nn::Linear> to_out;
};

struct Geglu : nn::Module {
  Geglu(std::int64_t in, std::int64_t inner) : proj(in, 2 * inner) { child("proj", proj); }
  at::Tensor forward(const at::Tensor& x) const;
  nn::Linear proj;
};

/// Keys net.0.proj (gated projection) and net.2 (output); net.1 is a dropout without tensors.
struct FeedForward : nn::Module {
  explicit FeedForward(std::int64_t dim);
  at::Tensor forward(const at::Tensor& x) const;

 private:
  struct Net : nn::Module {
    explicit Net(std::int64_t dim) : gate(dim, 4 * dim), output(4 * dim, dim) {
      child("0", gate);
      child("2", output);
    }
    Geglu gate;
    nn::Linear output;
  };
  Net net_;
};

struct TransformerBlock : nn::Module {
  TransformerBlock(std::int64_t dim, std::int64_t context_dim, std::int64_t heads);
  at::Tensor forward(const at::Tensor& x, const at::Tensor& context) const;
  nn::LayerNorm norm1;
  CrossAttention attn1;
  nn::LayerNorm norm2;
  CrossAttention attn2;
  nn::LayerNorm norm3;
  FeedForward ff;
};

struct SpatialTransformer : nn::Module {
  SpatialTransformer(std::int64_t channels, std::int64_t context_dim, std::int64_t heads, std::int64_t groups);
  at::Tensor forward(const at::Tensor& x, const at::Tensor& context) const;
  nn::GroupNorm norm;
  nn::Conv2d proj_in;
  nn::List<TransformerBlock> transformer_blocks;
  nn::Conv2d proj_out;
};

/// DeepFloyd-IF's attention: pixels look at the text and at each other in one softmax, text first among the keys
/// (diffusers' Attention with AttnAddedKVProcessor2_0).
struct AddedKvAttention : nn::Module {
  AddedKvAttention(std::int64_t channels, std::int64_t text_dim, std::int64_t head_dim, std::int64_t groups,
                   bool normalizes_text);
  /// x [N, C, H, W], text [N, L, text_dim] -> [N, C, H, W].
  at::Tensor forward(const at::Tensor& x, const at::Tensor& text) const;
  std::int64_t head_dim;
  nn::GroupNorm group_norm;
  std::optional<nn::GroupNorm> norm_cross;
  nn::Linear to_q, to_k, to_v, add_k_proj, add_v_proj;
  nn::List<nn::Linear> to_out;
};

struct TimeEmbedding : nn::Module {
  TimeEmbedding(std::int64_t in, std::int64_t out, Act act);
  at::Tensor forward(const at::Tensor& x) const;
  Act act;
  nn::Linear linear_1, linear_2;
};

/// One vector of a text: attention whose only query is the mean of the tokens (plus a learnt position).
struct AttentionPooling : nn::Module {
  AttentionPooling(std::int64_t heads, std::int64_t features);
  /// [N, L, D] -> [N, D].
  at::Tensor forward(const at::Tensor& x) const;
  std::int64_t heads;
  at::Tensor positional_embedding;  // [1, D]
  nn::Linear k_proj, q_proj, v_proj;
};

/// Text as an addition to the time embedding.
struct TextTimeEmbedding : nn::Module {
  TextTimeEmbedding(std::int64_t text_features, std::int64_t time_features, std::int64_t heads);
  /// [N, L, D] -> [N, time_features].
  at::Tensor forward(const at::Tensor& states) const;
  nn::LayerNorm norm1;
  AttentionPooling pool;
  nn::Linear proj;
  nn::LayerNorm norm2;
};

/// Attention after each residual block of a level, of the level's kind (or none).
struct UnetAttentions {
  void add(const UnetConfig& config, UnetBlock block, std::int64_t channels);
  at::Tensor forward(std::size_t i, const at::Tensor& x, const at::Tensor& context) const;
  nn::Module& module() { return simple.empty() ? static_cast<nn::Module&>(transformers) : simple; }
  nn::List<SpatialTransformer> transformers;
  nn::List<AddedKvAttention> simple;
};

struct UnetDownBlock : nn::Module {
  UnetDownBlock(const UnetConfig& config, std::size_t level);
  /// Appends every intermediate to `skips`.
  at::Tensor forward(at::Tensor x, const at::Tensor& time, const at::Tensor& context,
                     std::vector<at::Tensor>& skips) const;
  UnetAttentions attentions;
  nn::List<ResnetBlock> resnets;
  nn::List<Downsample> downsamplers;  // one of these two, or neither at the last level
  nn::List<ResnetBlock> resnet_downsamplers;
};

struct UnetMidBlock : nn::Module {
  explicit UnetMidBlock(const UnetConfig& config);
  at::Tensor forward(const at::Tensor& x, const at::Tensor& time, const at::Tensor& context) const;
  UnetAttentions attentions;
  nn::List<ResnetBlock> resnets;
};

struct UnetUpBlock : nn::Module {
  UnetUpBlock(const UnetConfig& config, std::size_t position);
  /// Takes its skips from the end of `skips`.
  at::Tensor forward(at::Tensor x, const at::Tensor& time, const at::Tensor& context,
                     std::vector<at::Tensor>& skips) const;
  UnetAttentions attentions;
  nn::List<ResnetBlock> resnets;
  nn::List<Upsample> upsamplers;
  nn::List<ResnetBlock> resnet_upsamplers;
};

}  // namespace divergen::models
