#pragma once
// The variational autoencoder of Stable Diffusion in diffusers' naming (AutoencoderKL).
// Arithmetic: reference/generation.md §2 "VAE", §3. Shapes: N images, C channels, H W pixels; latents are 2^(levels-1)
// smaller.

#include "base/fs.hpp"
#include "models/config_json.hpp"
#include "models/diffusion/blocks.hpp"

namespace divergen::models {

struct VaeConfig {
  std::int64_t in_channels = 3, out_channels = 3, latent_channels = 4;
  std::vector<std::int64_t> block_out_channels;
  std::int64_t layers_per_block = 2;
  std::int64_t norm_groups = 32;
  std::int64_t sample_size = 512;
  double scaling_factor = 0.18215;  // the class default in diffusers; absent from the v1-5 file

  static VaeConfig from(const ModelConfig& config);
  nlohmann::json to_json() const;
  std::int64_t downscale() const { return std::int64_t{1} << (block_out_channels.size() - 1); }
};

struct VaeMidBlock : nn::Module {
  VaeMidBlock(std::int64_t channels, std::int64_t groups);
  at::Tensor forward(const at::Tensor& x) const;
  nn::List<SpatialSelfAttention> attentions;
  nn::List<ResnetBlock> resnets;
};

struct VaeDownBlock : nn::Module {
  VaeDownBlock(std::int64_t in, std::int64_t out, std::int64_t layers, std::int64_t groups, bool downsample);
  at::Tensor forward(at::Tensor x) const;
  nn::List<ResnetBlock> resnets;
  nn::List<Downsample> downsamplers;
};

struct VaeUpBlock : nn::Module {
  VaeUpBlock(std::int64_t in, std::int64_t out, std::int64_t layers, std::int64_t groups, bool upsample);
  at::Tensor forward(at::Tensor x) const;
  nn::List<ResnetBlock> resnets;
  nn::List<Upsample> upsamplers;
};

struct VaeEncoder : nn::Module {
  explicit VaeEncoder(const VaeConfig& config);
  at::Tensor forward(at::Tensor x) const;
  nn::Conv2d conv_in;
  nn::List<VaeDownBlock> down_blocks;
  VaeMidBlock mid_block;
  nn::GroupNorm conv_norm_out;
  nn::Conv2d conv_out;
};

struct VaeDecoder : nn::Module {
  explicit VaeDecoder(const VaeConfig& config);
  at::Tensor forward(at::Tensor z) const;
  nn::Conv2d conv_in;
  nn::List<VaeUpBlock> up_blocks;
  VaeMidBlock mid_block;
  nn::GroupNorm conv_norm_out;
  nn::Conv2d conv_out;
};

struct AutoencoderKL : nn::Module {
  explicit AutoencoderKL(const VaeConfig& config);

  struct Posterior {
    at::Tensor mean, logvar;  // [N, latent, h, w]; logvar clamped to [-30, 20]
  };
  /// images [N, 3, H, W] in [-1, 1].
  Posterior encode(const at::Tensor& images) const;
  /// latents as the UNet sees them divided by scaling_factor -> images, nominally in [-1, 1].
  at::Tensor decode(const at::Tensor& latents) const;

  VaeConfig config;
  VaeEncoder encoder;
  VaeDecoder decoder;
  nn::Conv2d quant_conv, post_quant_conv;
};

/// Published files name the attention of the mid blocks query/key/value/proj_attn; newer writers
/// to_q/to_k/to_v/to_out.0.
std::string rename_vae_key(const std::string& key);

/// A folder with config.json and diffusion_pytorch_model.safetensors, old or new key names.
std::unique_ptr<AutoencoderKL> load_vae(const Path& folder);

}  // namespace divergen::models
