#include "models/annotators/layers.hpp"

namespace divergen::models {

BatchNorm2d::BatchNorm2d(std::int64_t channels, double eps_) : eps(eps_) {
  parameter("weight", weight, {channels});
  parameter("bias", bias, {channels});
  buffer("running_mean", running_mean, {channels});
  buffer("running_var", running_var, {channels});
  buffer("num_batches_tracked", num_batches_tracked, {}, at::kLong);
}

at::Tensor BatchNorm2d::forward(const at::Tensor& x) const {
  return at::batch_norm(x, weight, bias, running_mean, running_var, /*training=*/false, /*momentum=*/0.1, eps,
                        /*cudnn_enabled=*/true);
}

at::Tensor resize_bilinear(const at::Tensor& x, std::int64_t height, std::int64_t width) {
  return at::upsample_bilinear2d(x, {height, width}, /*align_corners=*/false);
}

std::string without_module_prefix(const std::string& key) {
  constexpr std::string_view kPrefix = "module.";
  return key.starts_with(kPrefix) ? key.substr(kPrefix.size()) : key;
}

}  // namespace divergen::models
