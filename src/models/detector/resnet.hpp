#pragma once
// ResNet with bottlenecks and frozen batch norms, named as timm's (reference/detector.md §2b).

#include <cstdint>
#include <vector>

#include "models/detector/backbone.hpp"

namespace divergen::models {

struct ResNetSizes {
  std::int64_t stem = 64;
  std::vector<std::int64_t> widths{64, 128, 256, 512};  // of the bottlenecks of each stage; outputs are 4 times as wide
  std::vector<std::int64_t> depths{3, 4, 6, 3};
  std::int64_t classes = 11221;  // of the classifier `fc`, which is kept and never used; 0: none
};
ResNetSizes resnet_sizes(const config::DetectorSettings& settings);

class ResNet : public BottomUp {
 public:
  explicit ResNet(const ResNetSizes& sizes);
  std::array<at::Tensor, 3> forward(const at::Tensor& x) const override;
  std::array<std::int64_t, 3> channels() const override;
  void init(at::Generator& generator) override;
  void calibrate(const at::Tensor& x) override;

  /// The maps one after another, for comparing with a reference.
  at::Tensor stem(const at::Tensor& x) const;
  at::Tensor stage(std::size_t index, at::Tensor x) const;

 private:
  /// A convolution and its norm; the module tree has them as neighbours, in places of its own.
  struct ConvNorm {
    ConvNorm(std::int64_t in, std::int64_t out, const nn::ConvOptions& options);
    at::Tensor forward(const at::Tensor& x, bool measure) const;
    nn::Conv2d conv;
    nn::FrozenBatchNorm2d norm;
  };
  struct Shortcut : nn::Module {
    Shortcut(std::int64_t in, std::int64_t out, std::int64_t stride);
    ConvNorm layer;
  };
  struct Bottleneck : nn::Module {
    Bottleneck(std::int64_t in, std::int64_t width, std::int64_t stride);
    at::Tensor forward(const at::Tensor& x, bool measure) const;
    ConvNorm layer1, layer2, layer3;
    std::unique_ptr<Shortcut> downsample;
  };
  struct Base : nn::Module {
    explicit Base(const ResNetSizes& sizes);
    ConvNorm layer0;
    std::array<nn::List<Bottleneck>, 4> layers;
    std::unique_ptr<nn::Linear> fc;
  };
  at::Tensor stem(const at::Tensor& x, bool measure) const;
  at::Tensor stage(std::size_t index, at::Tensor x, bool measure) const;

  ResNetSizes sizes_;
  Base base_;
};

}  // namespace divergen::models
