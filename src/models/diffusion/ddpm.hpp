#pragma once
// Ancestral sampling as DeepFloyd-IF uses it: learned-range variance, dynamic thresholding, any falling list of time
// steps (diffusers' DDPMScheduler; reference/generation.md §2 "IF schedulers", §4).

#include "models/diffusion/scheduler.hpp"

namespace divergen::models {

/// Holds no history: one object serves any number of batches and threads.
class Ddpm {
 public:
  /// `steps` equal steps ("leading" spacing). Throws Error(Data | Config).
  Ddpm(const ModelConfig& config, std::int64_t steps);
  /// The given time steps, falling and below the schedule's length; else throws Error(Config).
  Ddpm(const ModelConfig& config, std::vector<std::int64_t> timesteps);

  const std::vector<std::int64_t>& timesteps() const { return timesteps_; }
  const NoiseSchedule& schedule() const { return schedule_; }
  /// Whether call i adds noise: all do but those at time 0.
  bool draws_noise(std::size_t i) const { return timesteps_[i] > 0; }
  bool learns_variance() const { return variance_ == Variance::LearnedRange; }

  struct Step {
    at::Tensor previous;  // the sample after the call
    at::Tensor x0;        // the clean picture as predicted, thresholded
  };
  /// output [N, C or 2C, H, W]: predicted noise, then (learned range) the variance's place between its bounds in
  /// [-1, 1]; sample and noise [N, C, H, W], noise undefined where none is drawn. Computes in the sample's type;
  /// coefficients are 0-dim float32 tensors on the CPU, so nothing waits for a device.
  Step step(const at::Tensor& output, std::size_t i, const at::Tensor& sample, const at::Tensor& noise) const;

 private:
  enum class Variance { FixedSmall, FixedLarge, LearnedRange };

  explicit Ddpm(const ModelConfig& config);
  at::Tensor restrict(const at::Tensor& x0) const;
  at::Tensor deviation(const at::Tensor& a, const at::Tensor& a_previous, const at::Tensor& place) const;

  NoiseSchedule schedule_;
  std::vector<std::int64_t> timesteps_;
  Variance variance_ = Variance::FixedSmall;
  bool thresholds_ = false, clips_ = true;
  double ratio_ = 0.995, largest_ = 1, clip_range_ = 1;
};

/// Dynamic thresholding (Saharia et al. 2022, §2.3): per picture, s = the `ratio` quantile of |x|, clamped to
/// [1, largest]; x is clamped to ±s and divided by s. In float32, returned in x's type.
at::Tensor dynamic_threshold(const at::Tensor& x, double ratio, double largest);

}  // namespace divergen::models
