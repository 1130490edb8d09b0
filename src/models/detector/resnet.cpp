#include "models/detector/resnet.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kExpansion = 4;  // of a bottleneck

/// Weight of the last norm of a branch at random initialisation. timm starts it at zero, which a frozen norm would keep
/// for ever and so shut the branch; with 1/4 a branch adds about 1/8 of its input's variance under He initialisation,
/// so that sixteen of them multiply it by less than eight.
constexpr double kBranchScale = 0.25;

}  // namespace

ResNetSizes resnet_sizes(const config::DetectorSettings& settings) {
  ResNetSizes sizes;
  sizes.stem = settings.stem_channels;
  sizes.depths = settings.depths;
  for (std::size_t i = 0; i < sizes.widths.size(); ++i) sizes.widths[i] = settings.base_width << i;
  sizes.classes = settings.backbone_classes;
  return sizes;
}

ResNet::ConvNorm::ConvNorm(std::int64_t in, std::int64_t out, const nn::ConvOptions& options)
    : conv(in, out, options), norm(out) {}

at::Tensor ResNet::ConvNorm::forward(const at::Tensor& x, bool measure) const {
  at::Tensor y = conv.forward(x);
  if (measure) {
    const auto [variance, mean] = at::var_mean(y, at::IntArrayRef{0, 2, 3}, /*unbiased=*/false);
    norm.running_mean.copy_(mean);
    norm.running_var.copy_(variance);
  }
  // FrozenBatchNorm2d in place, which spares two maps. Folding it into the convolution would spare the passes too, but
  // rounds otherwise: a ReLU on the edge falls the other way, and gradients leave the reference's own noise.
  const at::Tensor scale = norm.weight * (norm.running_var + norm.eps).rsqrt();
  const at::Tensor shift = norm.bias - norm.running_mean * scale;
  return y.mul_(scale.view({1, -1, 1, 1})).add_(shift.view({1, -1, 1, 1}));
}

ResNet::Shortcut::Shortcut(std::int64_t in, std::int64_t out, std::int64_t stride)
    : layer(in, out, {.kernel = 1, .stride = stride, .bias = false}) {
  child("0", layer.conv);
  child("1", layer.norm);
}

ResNet::Bottleneck::Bottleneck(std::int64_t in, std::int64_t width, std::int64_t stride)
    : layer1(in, width, {.kernel = 1, .bias = false}),
      layer2(width, width, {.kernel = 3, .stride = stride, .padding = 1, .bias = false}),
      layer3(width, kExpansion * width, {.kernel = 1, .bias = false}) {
  child("conv1", layer1.conv);
  child("bn1", layer1.norm);
  child("conv2", layer2.conv);
  child("bn2", layer2.norm);
  child("conv3", layer3.conv);
  child("bn3", layer3.norm);
  if (stride != 1 || in != kExpansion * width) {
    downsample = std::make_unique<Shortcut>(in, kExpansion * width, stride);
    child("downsample", *downsample);
  }
}

at::Tensor ResNet::Bottleneck::forward(const at::Tensor& x, bool measure) const {
  at::Tensor y = layer1.forward(x, measure).relu_();
  y = layer2.forward(y, measure).relu_();
  y = layer3.forward(y, measure);
  return y.add_(downsample ? downsample->layer.forward(x, measure) : x).relu_();
}

ResNet::Base::Base(const ResNetSizes& sizes)
    : layer0(3, sizes.stem, {.kernel = 7, .stride = 2, .padding = 3, .bias = false}) {
  DIVERGEN_CHECK(sizes.widths.size() == layers.size() && sizes.depths.size() == layers.size());
  child("conv1", layer0.conv);
  child("bn1", layer0.norm);
  std::int64_t in = sizes.stem;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    child("layer" + std::to_string(i + 1), layers[i]);
    for (std::int64_t j = 0; j < sizes.depths[i]; ++j) {
      layers[i].add(in, sizes.widths[i], i > 0 && j == 0 ? 2 : 1);
      in = kExpansion * sizes.widths[i];
    }
  }
  if (sizes.classes > 0) {
    fc = std::make_unique<nn::Linear>(in, sizes.classes);
    child("fc", *fc);
  }
}

ResNet::ResNet(const ResNetSizes& sizes) : sizes_(sizes), base_(sizes) { child("base", base_); }

std::array<std::int64_t, 3> ResNet::channels() const {
  return {kExpansion * sizes_.widths[1], kExpansion * sizes_.widths[2], kExpansion * sizes_.widths[3]};
}

at::Tensor ResNet::stem(const at::Tensor& x, bool measure) const {
  return at::max_pool2d(base_.layer0.forward(x, measure).relu_(), {3, 3}, {2, 2}, {1, 1});
}
at::Tensor ResNet::stage(std::size_t index, at::Tensor x, bool measure) const {
  for (const Bottleneck* block : base_.layers[index]) x = block->forward(x, measure);
  return x;
}
at::Tensor ResNet::stem(const at::Tensor& x) const { return stem(x, false); }
at::Tensor ResNet::stage(std::size_t index, at::Tensor x) const { return stage(index, std::move(x), false); }

std::array<at::Tensor, 3> ResNet::forward(const at::Tensor& x) const {
  std::array<at::Tensor, 3> maps;
  at::Tensor y = stage(0, stem(x));
  for (std::size_t i = 0; i < maps.size(); ++i) maps[i] = y = stage(i + 1, y);
  return maps;
}

void ResNet::calibrate(const at::Tensor& x) {
  at::NoGradGuard no_grad;
  at::Tensor y = stem(x, true);
  for (std::size_t i = 0; i < base_.layers.size(); ++i) y = stage(i, y, true);
}

void ResNet::init(at::Generator& generator) {
  at::NoGradGuard no_grad;
  const auto norm_weights = [](const std::string& name) { return name.ends_with("weight") || name.ends_with("var"); };
  for (auto& [name, tensor, is_parameter, is_persistent] : named_tensors()) {
    if (name.starts_with("base.fc.")) {  // PyTorch's default of Linear, which timm leaves
      const double bound = 1.0 / std::sqrt(static_cast<double>(channels()[2]));
      tensor.uniform_(-bound, bound, generator);
    } else if (is_parameter) {  // a convolution: He initialisation over its outputs (timm)
      const auto fan_out = static_cast<double>(tensor.numel() / tensor.size(1));
      tensor.normal_(0.0, std::sqrt(2.0 / fan_out), generator);
    } else {
      tensor.fill_(name.ends_with("bn3.weight") ? kBranchScale : norm_weights(name) ? 1.0 : 0.0);
    }
  }
}

}  // namespace divergen::models
