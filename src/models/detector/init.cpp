#include "models/detector/init.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "models/detector/backbone.hpp"
#include "models/detector/centernet2.hpp"
#include "models/detector/checkpoint.hpp"
#include "models/detector/roi_heads.hpp"

namespace divergen::models {

void init_xavier(at::Tensor& weight, at::Tensor& bias, at::Generator& generator) {
  const double bound = std::sqrt(3.0 * static_cast<double>(weight.size(0)) / static_cast<double>(weight.numel()));
  weight.uniform_(-bound, bound, generator);
  bias.zero_();
}

void init_detector(CenterNet2& detector, const config::DetectorSettings& settings, at::Generator& generator) {
  at::NoGradGuard no_grad;
  detector.backbone().init(generator);
  detector.proposal_head().init(generator);
  detector.roi_heads().init(generator);
  if (!settings.backbone_weights.empty()) load_backbone(detector, settings.backbone_weights);
}

void calibrate_norms(CenterNet2& detector, std::span<const at::Tensor> images) {
  detector.backbone().bottom_up().calibrate(detector.prepare(images));
}

}  // namespace divergen::models
