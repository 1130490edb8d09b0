#pragma once
// The noise predictor of Stable Diffusion in diffusers' naming (UNet2DConditionModel).
// Arithmetic and names: reference/generation.md §2, §3. Shapes: N samples, C channels, H W, L tokens, D features.

#include "base/fs.hpp"
#include "models/config_json.hpp"
#include "models/diffusion/blocks.hpp"

namespace divergen::models {

struct UnetConfig {
  std::int64_t sample_size = 64, in_channels = 4, out_channels = 4;
  std::vector<std::int64_t> block_out_channels;
  std::vector<bool> down_attention, up_attention;  // whether the block is a CrossAttn…Block2D
  std::int64_t layers_per_block = 2;
  std::int64_t norm_groups = 32;
  double norm_eps = 1e-5;
  std::int64_t cross_attention_dim = 768;
  std::int64_t heads = 8;  // the file's attention_head_dim: a misnomer that diffusers keeps for compatibility

  static UnetConfig from(const ModelConfig& config);
  nlohmann::json to_json() const;
};

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

struct TimeEmbedding : nn::Module {
  TimeEmbedding(std::int64_t in, std::int64_t out);
  at::Tensor forward(const at::Tensor& x) const;
  nn::Linear linear_1, linear_2;
};

struct UnetDownBlock : nn::Module {
  UnetDownBlock(const UnetConfig& config, std::size_t level);
  /// Appends every intermediate to `skips`.
  at::Tensor forward(at::Tensor x, const at::Tensor& time, const at::Tensor& context,
                     std::vector<at::Tensor>& skips) const;
  nn::List<SpatialTransformer> attentions;
  nn::List<ResnetBlock> resnets;
  nn::List<Downsample> downsamplers;
};

struct UnetMidBlock : nn::Module {
  explicit UnetMidBlock(const UnetConfig& config);
  at::Tensor forward(const at::Tensor& x, const at::Tensor& time, const at::Tensor& context) const;
  nn::List<SpatialTransformer> attentions;
  nn::List<ResnetBlock> resnets;
};

struct UnetUpBlock : nn::Module {
  UnetUpBlock(const UnetConfig& config, std::size_t position);
  /// Takes its skips from the end of `skips`.
  at::Tensor forward(at::Tensor x, const at::Tensor& time, const at::Tensor& context,
                     std::vector<at::Tensor>& skips) const;
  nn::List<SpatialTransformer> attentions;
  nn::List<ResnetBlock> resnets;
  nn::List<Upsample> upsamplers;
};

struct UNet2DCondition : nn::Module {
  explicit UNet2DCondition(const UnetConfig& config);
  /// sample [N, in, H, W], steps [N] (any number type), context [N, L, cross_attention_dim] -> [N, out, H, W].
  at::Tensor forward(const at::Tensor& sample, const at::Tensor& steps, const at::Tensor& context) const;

  UnetConfig config;
  nn::Conv2d conv_in;
  TimeEmbedding time_embedding;
  nn::List<UnetDownBlock> down_blocks;
  nn::List<UnetUpBlock> up_blocks;
  UnetMidBlock mid_block;
  nn::GroupNorm conv_norm_out;
  nn::Conv2d conv_out;
};

/// A folder with config.json and diffusion_pytorch_model.safetensors.
std::unique_ptr<UNet2DCondition> load_unet(const Path& folder);

}  // namespace divergen::models
