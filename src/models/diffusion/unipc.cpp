// UniPC as diffusers' UniPCMultistepScheduler computes it with its defaults: every step predicts x0, corrects the
// sample that the last prediction gave with what the network now says, and predicts on from there. Works in the
// sample's type.

#include <ATen/ATen.h>

#include "models/diffusion/sigma_grid.hpp"

namespace divergen::models {
namespace {

class UniPc : public Scheduler {
 public:
  UniPc(const ModelConfig& config, std::int64_t steps) {
    config.require("solver_order", 2);
    config.require<std::string>("solver_type", "bh2");
    config.require("predict_x0", true);
    config.require("lower_order_final", true);
    config.require("thresholding", false);
    config.require<std::string>("final_sigmas_type", "zero");
    for (const char* key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas"})
      config.require(key, false);
    const NoiseSchedule schedule = NoiseSchedule::from(config);
    timesteps_ = solver_timesteps(config, schedule.steps(), steps, "unipc");
    const SigmaTable table(schedule);
    for (const double t : timesteps_) sigmas_.push_back(table.at_time(t));
    sigmas_.push_back(at::scalar_tensor(0.0, at::kFloat));
    for (const at::Tensor& sigma : sigmas_) levels_.push_back(SolverLevel::of(sigma));
  }
  const std::vector<at::Tensor>* sigmas() const override { return &sigmas_; }

  at::Tensor step(const at::Tensor& noise, std::size_t i, const at::Tensor& sample) override {
    const at::Tensor x0 = (sample - levels_[i].sigma * noise) / levels_[i].alpha;
    const at::Tensor corrected = i == 0 ? sample : correct(i, x0);
    older_ = newest_;
    newest_ = x0;
    // First order at the start, for want of history, and at the end, where lambda is infinite.
    order_ = i == 0 || i + 1 == timesteps_.size() ? 1 : 2;
    last_sample_ = corrected;
    return predict(i, corrected);
  }

 private:
  /// Coefficients of one move between two levels; all 0-dim float32.
  struct Move {
    at::Tensor h, growth;  // growth = e^-h - 1: both h·phi1 and B(h)
  };
  Move move(std::size_t from, std::size_t to) const {
    const at::Tensor h = levels_[to].lambda - levels_[from].lambda;
    return {h, at::expm1(-h)};
  }
  /// Without differences of x0.
  at::Tensor first_order(std::size_t from, std::size_t to, const Move& m, const at::Tensor& x) const {
    return levels_[to].sigma / levels_[from].sigma * x - levels_[to].alpha * m.growth * newest_;
  }
  /// Difference quotient of x0 before `from`, in units of the step h.
  at::Tensor slope(std::size_t from, const at::Tensor& h, at::Tensor& rk) const {
    rk = (levels_[from - 1].lambda - levels_[from].lambda) / h;
    return (older_ - newest_) / rk;
  }

  at::Tensor predict(std::size_t i, const at::Tensor& x) const {
    const Move m = move(i, i + 1);
    const at::Tensor base = first_order(i, i + 1, m, x);
    if (order_ == 1) return base.to(x.scalar_type());
    at::Tensor rk;
    const at::Tensor half = at::scalar_tensor(0.5, x.scalar_type());  // order 2: the weight is 1/2 exactly
    return (base - levels_[i + 1].alpha * m.growth * (half * slope(i, m.h, rk))).to(x.scalar_type());
  }

  /// The sample at level i once more, now that x0 there is known.
  at::Tensor correct(std::size_t i, const at::Tensor& x0) const {
    const at::Tensor& x = last_sample_;
    const Move m = move(i - 1, i);
    const at::Tensor base = first_order(i - 1, i, m, x), change = x0 - newest_;
    const at::Tensor factor = levels_[i].alpha * m.growth;
    if (order_ == 1) {
      const at::Tensor half = at::scalar_tensor(0.5, x.scalar_type());
      return (base - factor * (half * change)).to(x.scalar_type());
    }
    at::Tensor rk;
    const at::Tensor quotient = slope(i - 1, m.h, rk);
    const at::Tensor weights = correction_weights(m, rk).to(x.scalar_type());
    return (base - factor * (weights[0] * quotient + weights[1] * change)).to(x.scalar_type());
  }

  /// Solves R·w = b of the method's order conditions, 2 × 2.
  static at::Tensor correction_weights(const Move& m, const at::Tensor& rk) {
    const at::Tensor nodes = at::stack({rk, at::ones({}, at::kFloat)});
    const at::Tensor minus_h = -m.h;
    at::Tensor phi = m.growth / minus_h - 1;
    std::vector<at::Tensor> rows, right;
    double factorial = 1;
    for (int k = 1; k <= 2; ++k) {
      rows.push_back(at::pow(nodes, k - 1));
      right.push_back(phi * factorial / m.growth);
      factorial *= k + 1;
      phi = phi / minus_h - 1 / factorial;
    }
    return at::linalg_solve(at::stack(rows), at::stack(right));
  }

  std::vector<at::Tensor> sigmas_;
  std::vector<SolverLevel> levels_;
  at::Tensor newest_, older_, last_sample_;
  int order_ = 1;  // of the last prediction, and so of the correction that follows it
};

}  // namespace

std::unique_ptr<Scheduler> make_unipc(const ModelConfig& config, std::int64_t steps) {
  return std::make_unique<UniPc>(config, steps);
}

}  // namespace divergen::models
