#pragma once
// Random numbers of the generators, equal to PyTorch's (reference/generation.md §9).

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace divergen::models {

/// torch.Generator().manual_seed(seed): a Mersenne twister on the CPU, whatever the pictures are computed on, so that
/// one seed gives the same noise on every device.
at::Generator noise_generator(std::uint64_t seed);

/// Unit normal noise, drawn in `type` itself (float16 noise is not rounded float32 noise) and then moved to `device`.
/// Advances the generator. Same numbers as torch.randn(sizes, generator=…, dtype=type); the order of draws counts.
at::Tensor draw_noise(at::Generator& generator, at::IntArrayRef sizes, at::ScalarType type = at::kFloat,
                      at::Device device = at::kCPU);

}  // namespace divergen::models
