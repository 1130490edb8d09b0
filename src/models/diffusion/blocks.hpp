#pragma once
// Building blocks of diffusers' UNet and VAE. Formulas that are easy to get wrong: reference/generation.md §3.

#include <optional>

#include "nn/layers.hpp"

namespace divergen::models {

/// norm1, act, conv1, (+ time embedding), norm2, act, conv2, + shortcut. Time embedding is added after conv1
/// (diffusers' time_embedding_norm "default").
struct ResnetBlock : nn::Module {
  ResnetBlock(std::int64_t in, std::int64_t out, std::int64_t time_features, std::int64_t groups, double eps);
  /// x [N, in, H, W], time [N, time_features] or undefined -> [N, out, H, W].
  at::Tensor forward(const at::Tensor& x, const at::Tensor& time = {}) const;
  nn::GroupNorm norm1;
  nn::Conv2d conv1;
  std::optional<nn::Linear> time_emb_proj;
  nn::GroupNorm norm2;
  nn::Conv2d conv2;
  std::optional<nn::Conv2d> conv_shortcut;
};

/// Stride-2 convolution. The VAE pads only right and below (0, 1, 0, 1); the UNet pads all sides by 1.
struct Downsample : nn::Module {
  Downsample(std::int64_t channels, std::int64_t padding);
  at::Tensor forward(const at::Tensor& x) const;
  nn::Conv2d conv;
};

/// Nearest-neighbour doubling (or resizing to the given size) and a convolution.
struct Upsample : nn::Module {
  explicit Upsample(std::int64_t channels);
  at::Tensor forward(const at::Tensor& x, std::optional<at::IntArrayRef> size = std::nullopt) const;
  nn::Conv2d conv;
};

/// The VAE's single-head attention over all pixels; keys group_norm, to_q, to_k, to_v, to_out.0.
struct SpatialSelfAttention : nn::Module {
  SpatialSelfAttention(std::int64_t channels, std::int64_t groups, double eps);
  at::Tensor forward(const at::Tensor& x) const;
  nn::GroupNorm group_norm;
  nn::Linear to_q, to_k, to_v;
  nn::List<nn::Linear> to_out;
};

/// sin/cos embedding of time steps, cosines first (flip_sin_to_cos, freq_shift 0). steps [N] -> [N, features] float32.
at::Tensor timestep_embedding(const at::Tensor& steps, std::int64_t features);

}  // namespace divergen::models
