#include "models/diffusion/scheduler.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/text.hpp"
#include "models/diffusion/sigma_grid.hpp"

namespace divergen::models {
namespace {

at::Tensor scalar(double value) { return at::scalar_tensor(value, at::kFloat); }

/// Time steps of diffusers' "leading" spacing, from high to low.
std::vector<std::int64_t> leading(std::int64_t train_steps, std::int64_t steps, std::int64_t offset) {
  std::vector<std::int64_t> out;
  const std::int64_t ratio = train_steps / steps;
  for (std::int64_t i = steps - 1; i >= 0; --i) out.push_back(i * ratio + offset);
  return out;
}

/// Entry i of numpy.linspace(0, last, parts + 1), with its roundings; 0 where there are no parts.
double linspace(std::int64_t last, std::int64_t i, std::int64_t parts) {
  if (i == parts) return parts == 0 ? 0 : static_cast<double>(last);
  return static_cast<double>(i) * (static_cast<double>(last) / static_cast<double>(parts));
}

std::string spacing_of(const ModelConfig& config, const char* otherwise) {
  return config.get<std::string>("timestep_spacing", otherwise);
}

class Ddim : public Scheduler {
 public:
  Ddim(const ModelConfig& config, std::int64_t steps)
      : schedule_(NoiseSchedule::from(config)),
        stride_(schedule_.steps() / steps),
        final_(config.get("set_alpha_to_one", true) ? scalar(1) : schedule_.alphas_cumprod[0]) {
    if (spacing_of(config, "leading") != "leading")
      config.refuse("timestep_spacing", "ddim is computed with 'leading' only");
    for (const auto t : leading(schedule_.steps(), steps, config.get<std::int64_t>("steps_offset", 0)))
      timesteps_.push_back(static_cast<double>(t));
  }
  at::Tensor step(const at::Tensor& noise, std::size_t i, const at::Tensor& sample) override {
    const auto t = static_cast<std::int64_t>(timesteps_[i]), previous = t - stride_;
    const at::Tensor a = schedule_.alphas_cumprod[t];
    const at::Tensor a_previous = previous >= 0 ? schedule_.alphas_cumprod[previous] : final_;
    const at::Tensor x0 = (sample - (1 - a).pow(0.5) * noise) / a.pow(0.5);
    return a_previous.pow(0.5) * x0 + (1 - a_previous).pow(0.5) * noise;
  }

 private:
  NoiseSchedule schedule_;
  std::int64_t stride_;
  at::Tensor final_;
};

/// Pseudo linear multistep (skip_prk_steps): the second time step is visited twice.
class Pndm : public Scheduler {
 public:
  Pndm(const ModelConfig& config, std::int64_t steps)
      : schedule_(NoiseSchedule::from(config)),
        stride_(schedule_.steps() / steps),
        final_(config.get("set_alpha_to_one", false) ? scalar(1) : schedule_.alphas_cumprod[0]) {
    config.require("skip_prk_steps", true);
    const auto order = leading(schedule_.steps(), steps, config.get<std::int64_t>("steps_offset", 0));
    for (std::size_t i = 0; i < order.size(); ++i) {
      timesteps_.push_back(static_cast<double>(order[i]));
      if (i == 1) timesteps_.push_back(static_cast<double>(order[i]));
    }
  }
  at::Tensor step(const at::Tensor& noise, std::size_t i, const at::Tensor& sample) override {
    auto t = static_cast<std::int64_t>(timesteps_[i]);
    auto previous = t - stride_;
    at::Tensor e = noise, from = sample;
    if (i != 1) {
      if (history_.size() > 3) history_.erase(history_.begin());
      history_.push_back(noise);
    } else {
      previous = t;
      t += stride_;
    }
    const std::size_t n = history_.size();
    const auto back = [&](std::size_t k) { return history_[n - k]; };
    if (n == 1 && i == 0) {
      first_ = sample;
    } else if (n == 1) {
      e = (noise + back(1)) / 2;
      from = first_;
    } else if (n == 2) {
      e = (3 * back(1) - back(2)) / 2;
    } else if (n == 3) {
      e = (23 * back(1) - 16 * back(2) + 5 * back(3)) / 12;
    } else {
      e = (1.0 / 24.0) * (55 * back(1) - 59 * back(2) + 37 * back(3) - 9 * back(4));
    }
    return move(from, t, previous, e);
  }

 private:
  at::Tensor move(const at::Tensor& sample, std::int64_t t, std::int64_t previous, const at::Tensor& e) const {
    const at::Tensor a = schedule_.alphas_cumprod[t];
    const at::Tensor p = previous >= 0 ? schedule_.alphas_cumprod[previous] : final_;
    const at::Tensor b = 1 - a, b_previous = 1 - p;
    const at::Tensor denominator = a * b_previous.pow(0.5) + (a * b * p).pow(0.5);
    return (p / a).pow(0.5) * sample - (p - a) * e / denominator;
  }

  NoiseSchedule schedule_;
  std::int64_t stride_;
  at::Tensor final_, first_;
  std::vector<at::Tensor> history_;
};

/// DPM-Solver++ (2M, midpoint), final sigma zero.
class DpmSolver : public Scheduler {
 public:
  DpmSolver(const ModelConfig& config, std::int64_t steps) {
    const NoiseSchedule schedule = NoiseSchedule::from(config);
    timesteps_ = solver_timesteps(config, schedule.steps(), steps, "dpmpp");
    const SigmaTable table(schedule);
    for (const double t : timesteps_) sigmas_.push_back(table.at_time(t));
    sigmas_.push_back(scalar(0));
  }
  const std::vector<at::Tensor>* sigmas() const override { return &sigmas_; }
  at::Tensor step(const at::Tensor& noise, std::size_t i, const at::Tensor& sample) override {
    const SolverLevel now = level(i), next = level(i + 1);
    const at::Tensor x0 = (sample - now.sigma * noise) / now.alpha;  // in the sample's type; what follows in float32
    const at::Tensor x = sample.to(at::kFloat);
    const bool first_order = !previous_.defined() || i + 1 == timesteps_.size();
    const at::Tensor h = next.lambda - now.lambda;
    const at::Tensor rate = next.alpha * (at::exp(-h) - 1.0);
    at::Tensor out = (next.sigma / now.sigma) * x - rate * x0;
    if (!first_order) {
      const at::Tensor r = (now.lambda - level(i - 1).lambda) / h;
      out = out - 0.5 * rate * ((1.0 / r) * (x0 - previous_));
    }
    previous_ = x0;
    return out.to(sample.scalar_type());
  }

 private:
  SolverLevel level(std::size_t i) const { return SolverLevel::of(sigmas_[i]); }
  std::vector<at::Tensor> sigmas_;
  at::Tensor previous_;
};

class Euler : public Scheduler {
 public:
  Euler(const ModelConfig& config, std::int64_t steps) {
    const NoiseSchedule schedule = NoiseSchedule::from(config);
    const std::string spacing = spacing_of(config, "linspace");
    if (spacing == "linspace") {
      for (std::int64_t i = steps - 1; i >= 0; --i)
        timesteps_.push_back(static_cast<float>(linspace(schedule.steps() - 1, i, steps - 1)));
    } else if (spacing == "leading") {
      for (const auto t : leading(schedule.steps(), steps, config.get<std::int64_t>("steps_offset", 0)))
        timesteps_.push_back(static_cast<double>(t));
    } else {
      config.refuse("timestep_spacing", cat("euler is not computed with '", spacing, "'"));
    }
    const SigmaTable table(schedule);
    for (const double t : timesteps_) sigmas_.push_back(table.at_time(t));
    sigmas_.push_back(scalar(0));
    const double largest = sigmas_.front().item<float>();
    init_sigma_ = spacing == "linspace" ? largest : std::sqrt(largest * largest + 1);
  }
  const std::vector<at::Tensor>* sigmas() const override { return &sigmas_; }
  double init_noise_sigma() const override { return init_sigma_; }
  at::Tensor scale_input(const at::Tensor& sample, std::size_t i) const override {
    return sample / (sigmas_[i].pow(2) + 1).pow(0.5);
  }
  at::Tensor step(const at::Tensor& noise, std::size_t i, const at::Tensor& sample) override {
    const at::Tensor x = sample.to(at::kFloat);
    const at::Tensor x0 = x - sigmas_[i] * noise;
    const at::Tensor derivative = (x - x0) / sigmas_[i];
    return (x + derivative * (sigmas_[i + 1] - sigmas_[i])).to(sample.scalar_type());
  }

 private:
  std::vector<at::Tensor> sigmas_;
  double init_sigma_ = 1;
};

/// diffusers' "squaredcos_cap_v2" (Nichol & Dhariwal 2021, §3.2): from abar(t) = cos²((t + 0.008) / 1.008 · π / 2),
/// each beta at most 0.999; in double, then float32.
at::Tensor squared_cosine_betas(std::int64_t steps) {
  const auto abar = [&](std::int64_t i) {
    const double t = static_cast<double>(i) / static_cast<double>(steps);
    return std::pow(std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2), 2);
  };
  std::vector<double> betas;
  for (std::int64_t i = 0; i < steps; ++i) betas.push_back(std::min(1 - abar(i + 1) / abar(i), 0.999));
  return at::tensor(betas, at::kDouble).to(at::kFloat);
}

}  // namespace

SigmaTable::SigmaTable(const NoiseSchedule& schedule) {
  const at::Tensor sigmas = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).pow(0.5);
  values_.assign(sigmas.const_data_ptr<float>(), sigmas.const_data_ptr<float>() + sigmas.numel());
}

at::Tensor SigmaTable::at_time(double t) const {
  const double end = static_cast<double>(values_.size() - 1), low = std::clamp(std::floor(t), 0.0, end);
  const auto i = static_cast<std::size_t>(low);
  const double a = values_[i], b = values_[std::min(i + 1, values_.size() - 1)];
  return scalar(a + (b - a) * (t - low));
}

SolverLevel SolverLevel::of(const at::Tensor& sigma) {
  SolverLevel l;
  l.alpha = 1 / (sigma.pow(2) + 1).pow(0.5);
  l.sigma = sigma * l.alpha;
  l.lambda = at::log(l.alpha) - at::log(l.sigma);
  return l;
}

std::vector<double> solver_timesteps(const ModelConfig& config, std::int64_t train_steps, std::int64_t steps,
                                     const std::string& name) {
  const std::string spacing = spacing_of(config, "linspace");
  std::vector<double> out;
  if (spacing == "linspace") {
    for (std::int64_t i = steps; i >= 1; --i) out.push_back(std::nearbyint(linspace(train_steps - 1, i, steps)));
  } else if (spacing == "leading") {
    const std::int64_t stride = train_steps / (steps + 1), offset = config.get<std::int64_t>("steps_offset", 0);
    for (std::int64_t i = steps; i >= 1; --i) out.push_back(static_cast<double>(i * stride + offset));
  } else {
    config.refuse("timestep_spacing", cat(name, " is not computed with '", spacing, "'"));
  }
  return out;
}

NoiseSchedule NoiseSchedule::from(const ModelConfig& config) {
  const auto steps = config.get<std::int64_t>("num_train_timesteps", 1000);
  const double start = config.get("beta_start", 0.00085), end = config.get("beta_end", 0.012);
  config.require<std::string>("prediction_type", "epsilon");
  NoiseSchedule schedule;
  const auto kind = config.get<std::string>("beta_schedule", "scaled_linear");
  if (kind == "scaled_linear")
    schedule.betas = at::linspace(std::sqrt(start), std::sqrt(end), steps, at::kFloat).pow(2);
  else if (kind == "linear") schedule.betas = at::linspace(start, end, steps, at::kFloat);
  else if (kind == "squaredcos_cap_v2") schedule.betas = squared_cosine_betas(steps);
  else config.refuse("beta_schedule", cat("'", kind, "' is not scaled_linear, linear or squaredcos_cap_v2"));
  schedule.alphas_cumprod = at::cumprod(1.0 - schedule.betas, 0);
  return schedule;
}

at::Tensor NoiseSchedule::add_noise(const at::Tensor& x, const at::Tensor& noise, const at::Tensor& t) const {
  const at::Tensor a = alphas_cumprod.to(x.options()).index_select(0, t).view({-1, 1, 1, 1});
  return a.pow(0.5) * x + (1 - a).pow(0.5) * noise;
}

const std::vector<std::string>& scheduler_names() {
  static const std::vector<std::string> names{"ddim", "pndm", "dpmpp", "euler", "unipc"};
  return names;
}

std::unique_ptr<Scheduler> make_scheduler(const std::string& name, const ModelConfig& config, std::int64_t steps) {
  if (steps < 1)
    fail(ErrorKind::Config,
         {"a sampler needs at least one step", cat(name, ", steps = ", steps), "", "set steps to 20 or so"});
  if (name == "ddim") return std::make_unique<Ddim>(config, steps);
  if (name == "pndm") return std::make_unique<Pndm>(config, steps);
  if (name == "dpmpp") return std::make_unique<DpmSolver>(config, steps);
  if (name == "euler") return std::make_unique<Euler>(config, steps);
  if (name == "unipc") return make_unipc(config, steps);
  const std::string near = nearest_word(name, scheduler_names());
  fail(ErrorKind::Config, {"there is no such sampler", name, "known: ddim, pndm, dpmpp, euler, unipc",
                           near.empty() ? "name one of them" : cat("did you mean '", near, "'?")});
}

}  // namespace divergen::models
