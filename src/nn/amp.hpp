#pragma once
// Mixed precision as PyTorch does it: autocast for the arithmetic, a scaler for gradients that float16 would lose
// (reference/semantics.md §8.5).
//
//   GradScaler scaler;                        // with precision fp16 only; bf16 needs none
//   { Autocast half(device, at::kHalf); loss = forward; }
//   scaler.scale(loss).backward();            // ... and the average over ranks, if there are several
//   const bool bad = scaler.unscale(parameters);
//   if (!bad) optimizer step;                 // the learning-rate schedule goes on either way
//   scaler.update(bad);

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>

#include <string>
#include <utility>
#include <vector>

#include "nn/module.hpp"

namespace divergen::nn {

/// "fp32", "fp16", "bf16" (the settings' words) as types.
at::ScalarType precision_type(const std::string& name);

/// torch.autocast for this thread, until the object goes: matrix products and convolutions on `device` compute in
/// `type`, what needs range stays in float32. With at::kFloat it does nothing.
class Autocast {
 public:
  Autocast(c10::DeviceType device, at::ScalarType type);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool active_;
  c10::DeviceType device_;
  bool was_enabled_ = false;
  at::ScalarType was_type_ = at::kFloat;
};

struct GradScalerOptions {  // torch.amp.GradScaler's defaults
  double initial_scale = 65536;
  double growth = 2;     // after growth_interval good steps in a row
  double backoff = 0.5;  // after a bad one
  std::int64_t growth_interval = 2000;
};

/// torch.amp.GradScaler. A bad step is no accident: the scale grows until one happens. Not thread-safe.
class GradScaler {
 public:
  explicit GradScaler(const GradScalerOptions& options = {});

  /// loss · scale, with its graph.
  at::Tensor scale(const at::Tensor& loss) const;
  /// Divides the parameters' gradients (float32, all on one device) by the scale, in place; true when an element of any
  /// is not finite, so that this step must be left out. Averaged gradients are the same on all ranks, and so is the
  /// answer. Waits for the device.
  bool unscale(const std::vector<NamedTensor>& parameters) const;
  /// Once after each step, done or left out.
  void update(bool was_bad);

  double current_scale() const;
  /// For checkpoints: "scale" (float32) and "good_steps" (int32), 0-dim on the CPU; shares memory.
  std::vector<std::pair<std::string, at::Tensor>> state() const;

 private:
  GradScalerOptions options_;
  at::Tensor scale_, good_steps_;
};

}  // namespace divergen::nn
