#include "nn/device.hpp"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

namespace divergen::nn {

at::Device device_of(const comm::World& world) {
  if (!at::globalContext().hasCUDA()) return at::kCPU;
  const int count = at::detail::getCUDAHooks().deviceCount();
  if (count <= 0) return at::kCPU;
  return {at::kCUDA, static_cast<at::DeviceIndex>(world.local_rank() % count)};
}

}  // namespace divergen::nn
