#pragma once
// The noise of a batch of pictures.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

namespace divergen::models {

/// Unit noise for the items of a batch, each from a generator of its own that only its seed decides: what an item gets
/// does not depend on the batch it is in. Draws are made on the CPU in `type` (see noise.hpp) and moved to `device`
/// without waiting for it. Not thread-safe.
class BatchNoise {
 public:
  BatchNoise(std::span<const std::uint64_t> seeds, at::ScalarType type, at::Device device);
  /// The next draw of every item: sizes [C, H, W] -> [N, C, H, W].
  at::Tensor draw(at::IntArrayRef sizes);

 private:
  std::vector<at::Generator> generators_;
  at::ScalarType type_;
  at::Device device_;
};

}  // namespace divergen::models
