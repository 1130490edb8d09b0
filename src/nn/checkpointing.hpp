#pragma once
// Activation checkpointing: memory for time. What a part of a network computes on the way is thrown away after its
// forward pass, and computed again when backward comes to it.

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace divergen::nn {

/// f(x), keeping nothing but x. In backward f runs again, with the random numbers of its first run (the default
/// generators of the CPU and of x's device are put back to where they were, and afterwards to where they are) and under
/// the autocast of its first run.
///
/// `parameters`: every leaf that f reads and that is to get a gradient. They are inputs of the node in the graph, so
/// that data-parallel training sees them (c10d::Reducer searches the graph) and gradients arrive in the usual way. f
/// must be callable as long as the graph lives, give one tensor, and compute the same again. Without autograd, or
/// when nothing requires a gradient, it is just f(x). No second derivatives.
at::Tensor checkpoint(std::function<at::Tensor(const at::Tensor&)> f, const at::Tensor& x,
                      const std::vector<at::Tensor>& parameters);

}  // namespace divergen::nn
