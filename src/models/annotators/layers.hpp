#pragma once
// Layers that the annotators' networks have beside those of nn/layers.hpp.

#include "nn/layers.hpp"

namespace divergen::models {

/// Batch norm over NCHW as it is used after training: with the stored statistics, which an optimizer never sees here.
/// PyTorch's names and order: weight, bias, running_mean, running_var, num_batches_tracked.
struct BatchNorm2d : nn::Module {
  explicit BatchNorm2d(std::int64_t channels, double eps = 1e-5);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight, bias, running_mean, running_var, num_batches_tracked;
  double eps;
};

/// Bilinear, corners not aligned, no antialiasing: torch's F.interpolate(mode="bilinear").
at::Tensor resize_bilinear(const at::Tensor& x, std::int64_t height, std::int64_t width);

/// "module.", as DataParallel writes before every name, is left out.
std::string without_module_prefix(const std::string& key);

}  // namespace divergen::models
