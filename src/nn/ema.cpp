#include "nn/ema.hpp"

#include <ATen/ATen.h>

#include "base/error.hpp"

namespace divergen::nn {

Ema::Ema(const Module& module, double decay) : tensors_(module.named_tensors()), decay_(decay) {
  for (NamedTensor& entry : tensors_) entry.tensor = entry.tensor.detach().clone();
}

void Ema::update(const Module& module, double decay) {
  at::NoGradGuard no_grad;
  const auto now = module.named_tensors();
  DIVERGEN_CHECK(now.size() == tensors_.size());
  std::vector<at::Tensor> averages, values;
  for (std::size_t i = 0; i < now.size(); ++i) {
    if (at::isFloatingType(now[i].tensor.scalar_type())) {
      averages.push_back(tensors_[i].tensor);
      values.push_back(now[i].tensor.detach());
    } else {
      tensors_[i].tensor.copy_(now[i].tensor);
    }
  }
  if (averages.empty()) return;
  at::_foreach_mul_(averages, decay);
  at::_foreach_add_(averages, values, 1.0 - decay);
}

void Ema::swap_with(Module& module) {
  at::NoGradGuard no_grad;
  const auto slots = module.named_slots();
  DIVERGEN_CHECK(slots.size() == tensors_.size());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const at::Tensor held = slots[i].second->detach().clone();
    slots[i].second->detach().copy_(tensors_[i].tensor);
    tensors_[i].tensor.copy_(held);
  }
}

}  // namespace divergen::nn
