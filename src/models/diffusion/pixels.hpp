#pragma once
// From a network's output in [-1, 1] to pictures of bytes (reference/generation.md §8).

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "image/image.hpp"

namespace divergen::models {

/// How values become bytes. The rules agree in float32 and differ in the half types.
enum class PixelRule {
  Diffusers,  // Stable Diffusion's postprocess and DeepFloyd-IF's pt_to_pil: x/2 + 0.5 clamped to [0, 1] in x's type,
              // then in float32 times 255, rounded half to even
  XPaste,     // X-Paste's script: (x + 1)·127.5, rounded half to even, clamped to [0, 255], all in x's type
};

/// x [N, C, H, W] of any floating type -> bytes [N, H, W, C], contiguous, on x's device.
at::Tensor to_bytes(const at::Tensor& x, PixelRule rule = PixelRule::Diffusers);

/// The same as pictures, copied to the CPU.
std::vector<image::Image> to_pictures(const at::Tensor& x, PixelRule rule);

/// The same in two steps: queues the conversion and the copy to the CPU on x's device, and returns what waits for them.
/// The returned function may be called on another thread, once.
std::function<std::vector<image::Image>()> start_pictures(const at::Tensor& x, PixelRule rule);

}  // namespace divergen::models
