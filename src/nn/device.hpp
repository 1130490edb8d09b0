#pragma once
// Which device a rank computes on.

#include <c10/core/Device.h>

#include "comm/world.hpp"

namespace divergen::nn {

/// GPU number local_rank (modulo the GPUs of the node) where LibTorch sees any, else the CPU.
at::Device device_of(const comm::World& world);

}  // namespace divergen::nn
