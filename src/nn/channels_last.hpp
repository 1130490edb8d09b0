#pragma once
// The order in memory that tensor cores multiply convolutions in.

#include "nn/module.hpp"

namespace divergen::nn {

/// Lays out four-dimensional tensors (weights of convolutions) with their channels innermost; a convolution's result
/// then has that order as well, and what follows keeps it. Values and shapes stay. Without it, a GPU turns the arguments
/// of each convolution of half types round.
void channels_last(Module& module);

}  // namespace divergen::nn
