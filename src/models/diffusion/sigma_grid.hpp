#pragma once
// What the samplers that think in noise levels (sigma = √((1 - abar) / abar)) share.

#include "models/diffusion/scheduler.hpp"

namespace divergen::models {

/// sigma at fractional time steps: linear between the schedule's, in double as numpy does, then float32.
class SigmaTable {
 public:
  explicit SigmaTable(const NoiseSchedule& schedule);
  /// 0-dim float32 on the CPU.
  at::Tensor at_time(double t) const;

 private:
  std::vector<double> values_;
};

/// alpha = 1/√(sigma² + 1), sigma·alpha and their log ratio, as the solvers of the diffusion ODE use them.
struct SolverLevel {
  at::Tensor alpha, sigma, lambda;
  static SolverLevel of(const at::Tensor& sigma);
};

/// Time steps of DPM-Solver++ and UniPC (their default spacing is "linspace"); `name` is for messages.
std::vector<double> solver_timesteps(const ModelConfig& config, std::int64_t train_steps, std::int64_t steps,
                                     const std::string& name);

/// UniPC, order 2, B2(h) = e^h - 1, with its corrector (Zhao et al. 2023), predicting x0, final sigma zero.
std::unique_ptr<Scheduler> make_unipc(const ModelConfig& config, std::int64_t steps);

}  // namespace divergen::models
