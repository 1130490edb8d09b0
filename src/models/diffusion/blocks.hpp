#pragma once
// Building blocks of diffusers' UNet and VAE. Formulas that are easy to get wrong: reference/generation.md §3.

#include <optional>

#include "nn/layers.hpp"

namespace divergen::models {

/// The activations that published configurations name: "silu" ("swish") and "gelu" (the exact one, by erf).
enum class Act { Silu, Gelu };
at::Tensor activate(Act act, const at::Tensor& x);

/// What a residual block does to height and width: nothing, average pooling by 2, nearest-neighbour doubling.
enum class Resize { None, Down, Up };

struct ResnetOptions {
  std::int64_t time_features = 0;  // 0: without time embedding
  std::int64_t groups = 32;
  double eps = 1e-6;
  Act act = Act::Silu;
  bool scale_shift = false;    // the time embedding scales and shifts after norm2, instead of being added before it
  bool skip_time_act = false;  // the time embedding comes activated already
  double output_scale = 1;     // what the sum of both branches is divided by
  Resize resize = Resize::None;
};

/// norm1, act, (resize of both branches,) conv1, time embedding and norm2, act, conv2, + shortcut.
struct ResnetBlock : nn::Module {
  ResnetBlock(std::int64_t in, std::int64_t out, const ResnetOptions& options);
  /// x [N, in, H, W], time [N, time_features] or undefined -> [N, out, H', W']. `size`: what Resize::Up aims at
  /// (default twice the size).
  at::Tensor forward(const at::Tensor& x, const at::Tensor& time = {},
                     std::optional<at::IntArrayRef> size = std::nullopt) const;
  ResnetOptions options;
  nn::GroupNorm norm1;
  nn::Conv2d conv1;
  std::optional<nn::Linear> time_emb_proj;
  nn::GroupNorm norm2;
  nn::Conv2d conv2;
  std::optional<nn::Conv2d> conv_shortcut;

 private:
  at::Tensor resized(const at::Tensor& x, std::optional<at::IntArrayRef> size) const;
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
