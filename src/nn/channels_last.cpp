#include "nn/channels_last.hpp"

#include <ATen/ATen.h>

namespace divergen::nn {

void channels_last(Module& module) {
  for (auto& [name, tensor] : module.named_slots()) {
    if (tensor->dim() != 4) continue;
    const bool grad = tensor->requires_grad();
    *tensor = tensor->detach().contiguous(at::MemoryFormat::ChannelsLast);
    if (grad) tensor->requires_grad_(true);
  }
}

}  // namespace divergen::nn
