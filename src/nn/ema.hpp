#pragma once
// Exponential moving average of a module's tensors (reference/semantics.md §8.4): e = e·d + (1-d)·m over the whole
// state.

#include <string>
#include <vector>

#include "nn/module.hpp"

namespace divergen::nn {

/// Starts as a copy of `module`. Floating buffers are averaged as the reference does; integer buffers are copied,
/// because averaging them through float drifts by one (a deliberate difference). Not thread-safe.
class Ema {
 public:
  Ema(const Module& module, double decay);

  void update(const Module& module) { update(module, decay_); }
  /// With another decay for this update, for averages that start from random values.
  void update(const Module& module, double decay);
  /// Exchanges the averaged tensors with the module's: call once to evaluate the average, again to go on training.
  void swap_with(Module& module);
  /// Names as in the module; shares memory.
  const std::vector<NamedTensor>& tensors() const { return tensors_; }
  double decay() const { return decay_; }

 private:
  std::vector<NamedTensor> tensors_;
  double decay_;
};

}  // namespace divergen::nn
