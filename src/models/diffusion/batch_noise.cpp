#include "models/diffusion/batch_noise.hpp"

#include <ATen/ATen.h>

#include "models/diffusion/noise.hpp"

namespace divergen::models {

BatchNoise::BatchNoise(std::span<const std::uint64_t> seeds, at::ScalarType type, at::Device device)
    : type_(type), device_(device) {
  for (const std::uint64_t seed : seeds) generators_.push_back(noise_generator(seed));
}

at::Tensor BatchNoise::draw(at::IntArrayRef sizes) {
  std::vector<std::int64_t> one{1};
  one.insert(one.end(), sizes.begin(), sizes.end());
  std::vector<at::Tensor> draws;
  for (at::Generator& generator : generators_) draws.push_back(draw_noise(generator, one, type_));
  const at::Tensor noise = at::cat(draws);
  return device_.is_cpu() ? noise : noise.pin_memory().to(device_, /*non_blocking=*/true);
}

}  // namespace divergen::models
