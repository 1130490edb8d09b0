#include "models/diffusion/ddpm.hpp"

#include <ATen/ATen.h>

#include "base/text.hpp"

namespace divergen::models {

Ddpm::Ddpm(const ModelConfig& config)
    : schedule_(NoiseSchedule::from(config)),
      thresholds_(config.get("thresholding", false)),
      clips_(config.get("clip_sample", true)),
      ratio_(config.get("dynamic_thresholding_ratio", 0.995)),
      largest_(config.get("sample_max_value", 1.0)),
      clip_range_(config.get("clip_sample_range", 1.0)) {
  const auto variance = config.get<std::string>("variance_type", "fixed_small");
  if (variance == "learned_range") variance_ = Variance::LearnedRange;
  else if (variance == "fixed_large") variance_ = Variance::FixedLarge;
  else if (variance != "fixed_small")
    config.refuse("variance_type", cat("'", variance, "' is not learned_range, fixed_small or fixed_large"));
}

Ddpm::Ddpm(const ModelConfig& config, std::int64_t steps) : Ddpm(config) {
  if (config.get<std::string>("timestep_spacing", "leading") != "leading")
    config.refuse("timestep_spacing", "ddpm is computed with 'leading' only");
  if (steps < 1 || steps > schedule_.steps())
    fail(ErrorKind::Config, {"the number of steps does not fit the sampler", cat("steps = ", steps),
                             cat("the network was trained with ", schedule_.steps()), "choose fewer, at least 1"});
  const std::int64_t stride = schedule_.steps() / steps, offset = config.get<std::int64_t>("steps_offset", 0);
  for (std::int64_t i = steps - 1; i >= 0; --i) timesteps_.push_back(i * stride + offset);
}

Ddpm::Ddpm(const ModelConfig& config, std::vector<std::int64_t> timesteps) : Ddpm(config) {
  timesteps_ = std::move(timesteps);
  for (std::size_t i = 0; i < timesteps_.size(); ++i) {
    const bool falls = i == 0 ? timesteps_[0] < schedule_.steps() : timesteps_[i] < timesteps_[i - 1];
    if (!falls || timesteps_[i] < 0)
      fail(ErrorKind::Config, {"the list of time steps cannot be used", cat("entry ", i, ", ", timesteps_[i]),
                               cat("they must fall, from below ", schedule_.steps(), " to at least 0"), "correct it"});
  }
}

at::Tensor dynamic_threshold(const at::Tensor& x, double ratio, double largest) {
  const at::Tensor flat = x.to(at::kFloat).flatten(1);
  const at::Tensor s = at::quantile(flat.abs(), ratio, 1).clamp(1.0, largest).unsqueeze(1);
  return (at::clamp(flat, -s, s) / s).view(x.sizes()).to(x.scalar_type());
}

at::Tensor Ddpm::restrict(const at::Tensor& x0) const {
  if (thresholds_) return dynamic_threshold(x0, ratio_, largest_);
  return clips_ ? x0.clamp(-clip_range_, clip_range_) : x0;
}

/// What unit noise is multiplied by. a, a_previous: abar of this and of the next visited time.
at::Tensor Ddpm::deviation(const at::Tensor& a, const at::Tensor& a_previous, const at::Tensor& place) const {
  const at::Tensor beta = 1 - a / a_previous;
  // 1e-20: diffusers' floor, under which the posterior's logarithm is not taken.
  const at::Tensor posterior = ((1 - a_previous) / (1 - a) * beta).clamp_min(1e-20);
  if (variance_ == Variance::FixedSmall) return posterior.pow(0.5);
  if (variance_ == Variance::FixedLarge) return beta.pow(0.5);
  const at::Tensor share = (place + 1) / 2;
  return at::exp(0.5 * (share * beta.log() + (1 - share) * posterior.log()));
}

Ddpm::Step Ddpm::step(const at::Tensor& output, std::size_t i, const at::Tensor& sample,
                      const at::Tensor& noise) const {
  const auto channels = sample.size(1);
  DIVERGEN_CHECK(output.size(1) == channels || output.size(1) == 2 * channels, output.size(1), " channels");
  DIVERGEN_CHECK(!learns_variance() || output.size(1) == 2 * channels, "no variance in the network's output");
  const at::Tensor predicted = output.narrow(1, 0, channels);
  const at::Tensor place = learns_variance() ? output.narrow(1, channels, channels) : at::Tensor();

  const at::Tensor a = schedule_.alphas_cumprod[timesteps_[i]];
  const bool is_last = i + 1 == timesteps_.size();
  const at::Tensor a_previous =
      is_last ? at::scalar_tensor(1.0, at::kFloat) : schedule_.alphas_cumprod[timesteps_[i + 1]];
  const at::Tensor b = 1 - a, b_previous = 1 - a_previous, ratio = a / a_previous;

  Step out;
  out.x0 = restrict((sample - b.pow(0.5) * predicted) / a.pow(0.5));
  const at::Tensor from_x0 = a_previous.pow(0.5) * (1 - ratio) / b, from_sample = ratio.pow(0.5) * b_previous / b;
  out.previous = from_x0 * out.x0 + from_sample * sample;
  if (draws_noise(i)) out.previous = out.previous + deviation(a, a_previous, place) * noise;
  return out;
}

}  // namespace divergen::models
