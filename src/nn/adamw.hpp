#pragma once
// AdamW (decoupled weight decay) as torch.optim.AdamW computes it, with detectron2's element-wise gradient clamp.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nn/module.hpp"

namespace divergen::nn {

struct AdamWOptions {
  double beta1 = 0.9;  // torch.optim.AdamW's defaults
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-4;        // reference/detector.md §9: on every parameter, norms and biases too
  std::optional<double> clip_value;  // each gradient element is clamped to [-clip_value, clip_value] before the step
  std::optional<double> clip_norm;   // the joint 2-norm of all gradients is scaled down to this
  /// Factor of the learning rate for the parameter of this name; asked once. Empty: 1 for all.
  std::function<double(const std::string&)> lr_factor;
  bool fused = true;  // ATen's fused kernel; false: the plain twin, bit-equal to PyTorch's single-tensor path
};

/// Owns the moments of the parameters given at construction; parameters without a gradient are skipped entirely (no
/// decay either), as in PyTorch. Not thread-safe.
class AdamW {
 public:
  AdamW(std::vector<NamedTensor> parameters, AdamWOptions options);

  /// One update with learning rate `lr` from the parameters' .grad().
  void step(double lr);
  void zero_grad();
  /// 2-norm of all gradients together, as a 0-dim tensor on the gradients' device (no synchronisation).
  at::Tensor grad_norm() const;

  /// Moments and step counts, named "<parameter>.exp_avg", ".exp_avg_sq", ".step"; shares memory.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  const std::vector<NamedTensor>& parameters() const { return parameters_; }
  const AdamWOptions& options() const { return options_; }

 private:
  struct Moments {
    at::Tensor exp_avg, exp_avg_sq, step;  // step: float32, 0-dim, as in PyTorch
  };
  void clip();
  void step_plain(std::size_t i, double lr);
  void step_fused(double factor, double lr);

  std::vector<NamedTensor> parameters_;
  std::vector<Moments> moments_;
  std::vector<double> factors_;
  AdamWOptions options_;
};

}  // namespace divergen::nn
