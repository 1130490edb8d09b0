#pragma once
// Samplers: from noise to a sample in a few calls of the noise predictor, exactly as diffusers computes them step by
// step (reference/generation.md §4). Coefficients are 0-dim float32 tensors, as in the reference, so that rounding is
// the same.

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "models/config_json.hpp"

namespace divergen::models {

/// Betas and what follows from them. All float32, length num_train_timesteps.
struct NoiseSchedule {
  static NoiseSchedule from(const ModelConfig& config);
  std::int64_t steps() const { return alphas_cumprod.size(0); }
  /// sqrt(abar)·x + sqrt(1-abar)·noise; t [N] int64.
  at::Tensor add_noise(const at::Tensor& x, const at::Tensor& noise, const at::Tensor& t) const;
  at::Tensor betas, alphas_cumprod;
};

/// One run of one batch; holds the history that multistep methods need. Not thread-safe; make one for each batch.
class Scheduler {
 public:
  virtual ~Scheduler() = default;
  /// Time steps in the order of the calls; some samplers have fractional ones.
  const std::vector<double>& timesteps() const { return timesteps_; }
  /// What unit noise is multiplied by before the first step.
  virtual double init_noise_sigma() const { return 1; }
  /// What the noise predictor sees at call i.
  virtual at::Tensor scale_input(const at::Tensor& sample, std::size_t) const { return sample; }
  /// Noise levels of the calls and the final one, 0-dim float32; none where a sampler does not think in them.
  virtual const std::vector<at::Tensor>* sigmas() const { return nullptr; }
  /// The sample after call i, from the predicted noise. Calls must come in order.
  virtual at::Tensor step(const at::Tensor& noise, std::size_t i, const at::Tensor& sample) = 0;

 protected:
  std::vector<double> timesteps_;
};

/// name: "ddim", "pndm", "dpmpp" (DPM-Solver++ 2M), "euler", "unipc". The configuration is a diffusers
/// scheduler_config.json, from which each sampler takes what `from_config` would. Throws Error(Config) for another
/// name.
std::unique_ptr<Scheduler> make_scheduler(const std::string& name, const ModelConfig& config, std::int64_t steps);
const std::vector<std::string>& scheduler_names();

}  // namespace divergen::models
