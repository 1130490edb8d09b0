#pragma once
// The layers that every network here is made of: PyTorch's names, shapes and arithmetic, one ATen call each.
//
// Shape letters: N batch, C channels, H W height and width, L sequence length, D features.

#include <array>

#include "nn/module.hpp"

namespace divergen::nn {

/// y = x Wᵀ + b. weight [out, in], bias [out].
struct Linear : Module {
  Linear(std::int64_t in, std::int64_t out, bool with_bias = true);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias;
};

struct ConvOptions {
  std::int64_t kernel = 3;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t dilation = 1;
  std::int64_t groups = 1;
  bool bias = true;
};

/// Square 2-D convolution over NCHW. weight [out, in / groups, k, k], bias [out].
struct Conv2d : Module {
  Conv2d(std::int64_t in, std::int64_t out, const ConvOptions& options);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias;
  ConvOptions options;
};

/// Square 2-D transposed convolution over NCHW, no output padding. weight [in, out, k, k], bias [out].
struct ConvTranspose2d : Module {
  ConvTranspose2d(std::int64_t in, std::int64_t out, const ConvOptions& options);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias;
  ConvOptions options;
};

/// weight, bias [channels].
struct GroupNorm : Module {
  GroupNorm(std::int64_t groups, std::int64_t channels, double eps = 1e-5);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias;
  std::int64_t groups;
  double eps;
};

/// Over the last dimension. weight, bias [features].
struct LayerNorm : Module {
  explicit LayerNorm(std::int64_t features, double eps = 1e-5);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias;
  double eps;
};

/// Over the channels of NCHW (segment-anything's LayerNorm2d). weight, bias [channels].
struct LayerNorm2d : Module {
  explicit LayerNorm2d(std::int64_t channels, double eps = 1e-6);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias;
  double eps;
};

/// weight [count, features]; forward takes integer indices of any shape.
struct Embedding : Module {
  Embedding(std::int64_t count, std::int64_t features);
  at::Tensor forward(const at::Tensor& indices) const;
  at::Tensor weight;
};

/// Batch norm with fixed statistics (detectron2's FrozenBatchNorm2d): all four are buffers, plus num_batches_tracked.
struct FrozenBatchNorm2d : Module {
  explicit FrozenBatchNorm2d(std::int64_t channels, double eps = 1e-5);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias, running_mean, running_var, num_batches_tracked;
  double eps;
};

/// PyTorch's default initialisation of Linear and Conv (uniform ±1/√fan_in), ones/zeros for norms, N(0,1) for
/// embeddings, for every layer of the types above found in `module` by its tensors' names and ranks; drawn from
/// `generator`. Models override what their reference initialises otherwise.
void init_default(Module& module, at::Generator& generator);

}  // namespace divergen::nn
