#pragma once
// Which device a rank computes on.

#include <c10/core/Device.h>

#include <string>

#include "comm/world.hpp"

namespace divergen::nn {

/// GPU number local_rank (modulo the GPUs of the node) where LibTorch sees any, else the CPU.
at::Device device_of(const comm::World& world);

/// The driver's name of the node's GPU of this number ("NVIDIA H100 80GB HBM3"), "GPU" where it does not tell.
std::string gpu_name(int index);

}  // namespace divergen::nn
