#include "models/diffusion/noise.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

namespace divergen::models {

at::Generator noise_generator(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

at::Tensor draw_noise(at::Generator& generator, at::IntArrayRef sizes, at::ScalarType type, at::Device device) {
  return at::randn(sizes, generator, at::TensorOptions().dtype(type)).to(device);
}

}  // namespace divergen::models
