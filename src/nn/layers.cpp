#include "nn/layers.hpp"

#include <ATen/ATen.h>

#include <cmath>

namespace divergen::nn {

Linear::Linear(std::int64_t in, std::int64_t out, bool with_bias) {
  parameter("weight", weight, {out, in});
  if (with_bias) parameter("bias", bias, {out});
}
at::Tensor Linear::forward(const at::Tensor& x) const { return at::linear(x, weight, bias); }

Conv2d::Conv2d(std::int64_t in, std::int64_t out, const ConvOptions& o) : options(o) {
  parameter("weight", weight, {out, in / o.groups, o.kernel, o.kernel});
  if (o.bias) parameter("bias", bias, {out});
}
at::Tensor Conv2d::forward(const at::Tensor& x) const {
  return at::conv2d(x, weight, bias, options.stride, options.padding, options.dilation, options.groups);
}

ConvTranspose2d::ConvTranspose2d(std::int64_t in, std::int64_t out, const ConvOptions& o) : options(o) {
  parameter("weight", weight, {in, out / o.groups, o.kernel, o.kernel});
  if (o.bias) parameter("bias", bias, {out});
}
at::Tensor ConvTranspose2d::forward(const at::Tensor& x) const {
  return at::conv_transpose2d(x, weight, bias, options.stride, options.padding, /*output_padding=*/0, options.groups,
                              options.dilation);
}

GroupNorm::GroupNorm(std::int64_t groups_, std::int64_t channels, double eps_) : groups(groups_), eps(eps_) {
  parameter("weight", weight, {channels});
  parameter("bias", bias, {channels});
}
at::Tensor GroupNorm::forward(const at::Tensor& x) const { return at::group_norm(x, groups, weight, bias, eps); }

LayerNorm::LayerNorm(std::int64_t features, double eps_) : eps(eps_) {
  parameter("weight", weight, {features});
  parameter("bias", bias, {features});
}
at::Tensor LayerNorm::forward(const at::Tensor& x) const {
  return at::layer_norm(x, weight.sizes(), weight, bias, eps);
}

LayerNorm2d::LayerNorm2d(std::int64_t channels, double eps_) : eps(eps_) {
  parameter("weight", weight, {channels});
  parameter("bias", bias, {channels});
}
at::Tensor LayerNorm2d::forward(const at::Tensor& x) const {
  // The order of operations is the reference's, so that results are equal to the bit.
  const at::Tensor mean = x.mean(1, /*keepdim=*/true);
  const at::Tensor variance = (x - mean).pow(2).mean(1, /*keepdim=*/true);
  const at::Tensor y = (x - mean) / at::sqrt(variance + eps);
  return weight.view({-1, 1, 1}) * y + bias.view({-1, 1, 1});
}

Embedding::Embedding(std::int64_t count, std::int64_t features) { parameter("weight", weight, {count, features}); }
at::Tensor Embedding::forward(const at::Tensor& indices) const { return at::embedding(weight, indices); }

FrozenBatchNorm2d::FrozenBatchNorm2d(std::int64_t channels, double eps_) : eps(eps_) {
  buffer("weight", weight, {channels});
  buffer("bias", bias, {channels});
  buffer("running_mean", running_mean, {channels});
  buffer("running_var", running_var, {channels});
  buffer("num_batches_tracked", num_batches_tracked, {}, at::kLong);
}
at::Tensor FrozenBatchNorm2d::forward(const at::Tensor& x) const {
  const at::Tensor scale = weight * (running_var + eps).rsqrt();
  const at::Tensor shift = bias - running_mean * scale;
  return x * scale.reshape({1, -1, 1, 1}).to(x.scalar_type()) + shift.reshape({1, -1, 1, 1}).to(x.scalar_type());
}

namespace {

bool ends_with(const std::string& name, std::string_view end) {
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

void init_default(Module& module, at::Generator& generator) {
  at::NoGradGuard no_grad;
  double bound = 0;  // of the weight that comes before a bias
  for (auto& entry : module.named_tensors()) {
    at::Tensor& t = entry.tensor;
    if (!entry.is_parameter) {
      if (!at::isFloatingType(t.scalar_type())) t.zero_();
      else t.fill_(ends_with(entry.name, "running_var") || ends_with(entry.name, "weight") ? 1.0 : 0.0);
    } else if (ends_with(entry.name, "bias")) {
      if (bound > 0) t.uniform_(-bound, bound, generator);
      else t.zero_();
    } else if (t.dim() >= 2 && ends_with(entry.name, "embedding.weight")) {
      t.normal_(0.0, 1.0, generator);
      bound = 0;
    } else if (t.dim() >= 2) {
      const std::int64_t fan_in = t.numel() / t.size(0);
      bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
      t.uniform_(-bound, bound, generator);
    } else {
      t.fill_(1.0);  // the scale of a norm
      bound = 0;
    }
  }
}

}  // namespace divergen::nn
