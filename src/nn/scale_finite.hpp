#pragma once
// A bucket of gradients before it goes to the other ranks: scaled, and looked at, in one pass over main memory. What
// at::aminmax and mul_ do in three.

#include <cstddef>

namespace divergen::nn {

/// values[i] *= factor, rounded as at::Tensor::mul_ rounds. Whether all of them were finite before.
bool scale_finite(float* values, std::size_t count, float factor);

}  // namespace divergen::nn
