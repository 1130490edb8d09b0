#include "nn/adamw.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <set>

namespace divergen::nn {

AdamW::AdamW(std::vector<NamedTensor> parameters, AdamWOptions options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const NamedTensor& p : parameters_) {
    const auto like = p.tensor.detach();
    moments_.push_back({at::zeros_like(like), at::zeros_like(like), at::zeros({}, like.options().dtype(at::kFloat))});
    factors_.push_back(options_.lr_factor ? options_.lr_factor(p.name) : 1.0);
  }
}

void AdamW::zero_grad() {
  for (NamedTensor& p : parameters_) p.tensor.mutable_grad() = at::Tensor();
}

at::Tensor AdamW::grad_norm() const {
  std::vector<at::Tensor> norms;
  for (const NamedTensor& p : parameters_)
    if (p.tensor.grad().defined()) norms.push_back(at::linalg_vector_norm(p.tensor.grad()));
  if (norms.empty()) return at::zeros({});
  return at::linalg_vector_norm(at::stack(norms));
}

void AdamW::clip() {
  if (options_.clip_value) {
    for (NamedTensor& p : parameters_)
      if (p.tensor.grad().defined()) p.tensor.mutable_grad().clamp_(-*options_.clip_value, *options_.clip_value);
  }
  if (options_.clip_norm) {
    const at::Tensor scale = (*options_.clip_norm / (grad_norm() + 1e-6)).clamp_max(1.0);
    for (NamedTensor& p : parameters_)
      if (p.tensor.grad().defined()) p.tensor.mutable_grad().mul_(scale);
  }
}

void AdamW::step_plain(std::size_t i, double lr) {
  at::Tensor& parameter = parameters_[i].tensor;
  const at::Tensor& grad = parameter.grad();
  Moments& m = moments_[i];
  m.step.add_(1);
  const double t = m.step.item<double>();
  parameter.mul_(1 - lr * options_.weight_decay);
  m.exp_avg.lerp_(grad, 1 - options_.beta1);
  m.exp_avg_sq.mul_(options_.beta2).addcmul_(grad, grad, 1 - options_.beta2);
  const double correction1 = 1 - std::pow(options_.beta1, t);
  const double correction2 = 1 - std::pow(options_.beta2, t);
  const at::Tensor denominator = (m.exp_avg_sq.sqrt() / std::sqrt(correction2)).add_(options_.eps);
  parameter.addcdiv_(m.exp_avg, denominator, -lr / correction1);
}

/// All parameters with this factor of the learning rate.
void AdamW::step_fused(double factor, double lr) {
  std::vector<at::Tensor> params, grads, averages, squares, steps;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (factors_[i] != factor || !parameters_[i].tensor.grad().defined()) continue;
    Moments& m = moments_[i];
    m.step.add_(1);
    params.push_back(parameters_[i].tensor);
    // The fused kernel wants equal layouts; a channels-last gradient beside a contiguous parameter is copied.
    grads.push_back(parameters_[i].tensor.grad().contiguous());
    averages.push_back(m.exp_avg);
    squares.push_back(m.exp_avg_sq);
    steps.push_back(m.step);
  }
  if (!params.empty())
    at::_fused_adamw_(params, grads, averages, squares, {}, steps, lr * factor, options_.beta1, options_.beta2,
                      options_.weight_decay, options_.eps, /*amsgrad=*/false, /*maximize=*/false);
}

void AdamW::step(double lr) {
  at::NoGradGuard no_grad;
  clip();
  if (options_.fused) {
    for (const double factor : std::set<double>(factors_.begin(), factors_.end())) step_fused(factor, lr);
    return;
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].tensor.grad().defined()) step_plain(i, lr * factors_[i]);
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::state() const {
  std::vector<std::pair<std::string, at::Tensor>> out;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    out.emplace_back(parameters_[i].name + ".exp_avg", moments_[i].exp_avg);
    out.emplace_back(parameters_[i].name + ".exp_avg_sq", moments_[i].exp_avg_sq);
    out.emplace_back(parameters_[i].name + ".step", moments_[i].step);
  }
  return out;
}

}  // namespace divergen::nn
