#include "models/detector/backbone.hpp"

#include <ATen/ATen.h>

#include "base/error.hpp"
#include "models/detector/init.hpp"
#include "models/detector/resnet.hpp"
#include "models/detector/swin.hpp"
#include "nn/amp.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kFirstLevel = 3;  // stride 2^3

}  // namespace

std::unique_ptr<BottomUp> make_bottom_up(const config::DetectorSettings& settings) {
  if (settings.backbone == "resnet") return std::make_unique<ResNet>(resnet_sizes(settings));
  if (settings.backbone == "swin") return std::make_unique<Swin>(swin_sizes(settings));
  fail(ErrorKind::Config, {"the detector's backbone is not known", settings.backbone,
                           "there are the backbones resnet and swin", "set detector.backbone to one of them"});
}

DetectorBackbone::TopBlock::TopBlock(std::int64_t channels)
    : p6(channels, channels, {.stride = 2, .padding = 1}), p7(channels, channels, {.stride = 2, .padding = 1}) {
  child("p6", p6);
  child("p7", p7);
}

DetectorBackbone::DetectorBackbone(std::unique_ptr<BottomUp> bottom_up, std::int64_t channels)
    : bottom_up_(std::move(bottom_up)),
      lateral_{nn::Conv2d(bottom_up_->channels()[0], channels, {.kernel = 1}),
               nn::Conv2d(bottom_up_->channels()[1], channels, {.kernel = 1}),
               nn::Conv2d(bottom_up_->channels()[2], channels, {.kernel = 1})},
      output_{nn::Conv2d(channels, channels, {.padding = 1}), nn::Conv2d(channels, channels, {.padding = 1}),
              nn::Conv2d(channels, channels, {.padding = 1})},
      top_block_(channels) {
  for (std::size_t i = 0; i < lateral_.size(); ++i) {
    const std::string level = std::to_string(kFirstLevel + static_cast<std::int64_t>(i));
    child("fpn_lateral" + level, lateral_[i]);
    child("fpn_output" + level, output_[i]);
  }
  child("top_block", top_block_);
  child("bottom_up", *bottom_up_);
}

std::vector<at::Tensor> DetectorBackbone::pyramid(const std::array<at::Tensor, 3>& maps) const {
  std::vector<at::Tensor> levels(maps.size());
  at::Tensor above;
  for (std::size_t i = maps.size(); i-- > 0;) {
    at::Tensor merged = lateral_[i].forward(maps[i]);
    if (above.defined())
      merged = merged + at::upsample_nearest2d(above, {2 * above.size(2), 2 * above.size(3)}, 2.0, 2.0);
    levels[i] = output_[i].forward(merged);
    above = merged;
  }
  levels.push_back(top_block_.p6.forward(levels.back()));  // of p5's output; p6 itself goes on without the ReLU
  levels.push_back(top_block_.p7.forward(at::relu(levels.back())));
  return levels;
}

std::vector<at::Tensor> DetectorBackbone::forward(const at::Tensor& x) const {
  std::vector<at::Tensor> levels;
  {
    const nn::Autocast autocast(x.device().type(), is_training() ? compute_.precision : at::kFloat);
    levels = pyramid(bottom_up_->forward(compute_.channels_last ? x.contiguous(at::MemoryFormat::ChannelsLast) : x));
  }
  for (at::Tensor& level : levels) level = level.to(at::kFloat);
  return levels;
}

void DetectorBackbone::set_compute(const BackboneCompute& compute) {
  compute_ = compute;
  bottom_up_->checkpoint_blocks(compute.checkpointing);
}

void DetectorBackbone::init(at::Generator& generator) {
  at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < lateral_.size(); ++i)
    for (nn::Conv2d* conv : {&lateral_[i], &output_[i]}) init_xavier(conv->weight, conv->bias, generator);
  for (nn::Conv2d* conv : {&top_block_.p6, &top_block_.p7}) init_xavier(conv->weight, conv->bias, generator);
  bottom_up_->init(generator);
}

}  // namespace divergen::models
