#include "nn/amp.hpp"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <cmath>

#include "base/error.hpp"

namespace divergen::nn {

at::ScalarType precision_type(const std::string& name) {
  if (name == "fp16") return at::kHalf;
  if (name == "bf16") return at::kBFloat16;
  DIVERGEN_CHECK(name == "fp32", name);
  return at::kFloat;
}

Autocast::Autocast(c10::DeviceType device, at::ScalarType type) : active_(type != at::kFloat), device_(device) {
  if (!active_) return;
  was_enabled_ = at::autocast::is_autocast_enabled(device);
  was_type_ = at::autocast::get_autocast_dtype(device);
  at::autocast::set_autocast_enabled(device, true);
  at::autocast::set_autocast_dtype(device, type);
  at::autocast::increment_nesting();
}

Autocast::~Autocast() {
  if (!active_) return;
  // Weights are converted once and kept until the outermost scope ends.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, was_enabled_);
  at::autocast::set_autocast_dtype(device_, was_type_);
}

GradScaler::GradScaler(const GradScalerOptions& options)
    : options_(options), scale_(at::full({}, options.initial_scale, at::kFloat)), good_steps_(at::zeros({}, at::kInt)) {
  DIVERGEN_CHECK(options.growth > 1 && options.backoff < 1 && options.backoff > 0 && options.growth_interval > 0);
}

double GradScaler::current_scale() const { return scale_.item<double>(); }

at::Tensor GradScaler::scale(const at::Tensor& loss) const { return loss * current_scale(); }

bool GradScaler::unscale(const std::vector<NamedTensor>& parameters) const {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> grads;
  for (const NamedTensor& p : parameters)
    if (p.tensor.grad().defined()) grads.push_back(p.tensor.grad());
  if (grads.empty()) return false;
  // 1 / scale is rounded to float32 from float64, as PyTorch does.
  const auto options = grads.front().options().dtype(at::kFloat);
  at::Tensor found = at::zeros({}, options);
  at::_amp_foreach_non_finite_check_and_unscale_(grads, found,
                                                 at::full({}, static_cast<float>(1.0 / current_scale()), options));
  return found.item<float>() != 0;
}

void GradScaler::update(bool was_bad) {
  auto& scale = *scale_.mutable_data_ptr<float>();
  auto& good = *good_steps_.mutable_data_ptr<std::int32_t>();
  if (was_bad) {
    scale = static_cast<float>(scale * options_.backoff);
    good = 0;
  } else if (++good == options_.growth_interval) {
    const auto grown = static_cast<float>(scale * options_.growth);
    if (std::isfinite(grown)) scale = grown;
    good = 0;
  }
}

std::vector<std::pair<std::string, at::Tensor>> GradScaler::state() const {
  return {{"scale", scale_}, {"good_steps", good_steps_}};
}

}  // namespace divergen::nn
