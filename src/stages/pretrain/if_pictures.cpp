#include "stages/pretrain/if_pictures.hpp"

#include <ATen/ATen.h>

#include <numbers>

#include "stages/pretrain/pictures.hpp"
#include "tokenizers/if_caption.hpp"

namespace divergen::stages {
namespace {

constexpr std::int64_t kRenderBatch = 100;

at::Tensor of_times(const at::Tensor& table, const at::Tensor& t) {
  return table.index_select(0, t).view({-1, 1, 1, 1});
}

/// Negative log likelihood, in nats, of x0 (a multiple of 1/127.5 in [-1, 1]) under a normal distribution in bins of
/// that width, the outer ones open (Ho et al. 2020, §3.3). Φ through erf, exactly.
at::Tensor discretized_nll(const at::Tensor& x0, const at::Tensor& mean, const at::Tensor& log_deviation) {
  const at::Tensor centred = x0 - mean, inverse = at::exp(-log_deviation);
  const auto cdf = [](const at::Tensor& z) { return 0.5 * (1 + at::erf(z / std::numbers::sqrt2)); };
  const at::Tensor below = cdf(inverse * (centred - 1.0 / 255)), up_to = cdf(inverse * (centred + 1.0 / 255));
  const at::Tensor probability = at::where(x0 < -0.999, up_to, at::where(x0 > 0.999, 1 - below, up_to - below));
  return -probability.clamp_min(1e-12).log();
}

}  // namespace

std::pair<at::Tensor, at::Tensor> if_tokens(const tokenizers::T5SentencePiece& tokenizer, const std::string& text) {
  const auto encoded = tokenizer.encode_padded(tokenizers::if_caption(text, /*clean=*/false));
  return {at::tensor(encoded.ids, at::kLong).unsqueeze(0), at::tensor(encoded.mask, at::kLong).unsqueeze(0)};
}

IfPictures IfPictures::render(const miniworld::World& world, const tokenizers::T5SentencePiece& tokenizer,
                              std::int64_t count, std::int64_t side, std::uint64_t seed) {
  IfPictures out;
  std::vector<at::Tensor> pixels, ids, masks;
  for (std::int64_t first = 0; first < count; first += kRenderBatch) {
    std::vector<image::Image> images;
    for (std::int64_t i = first; i < std::min(first + kRenderBatch, count); ++i) {
      Rng rng(derive_seed(seed, "picture", {static_cast<std::uint64_t>(i)}));
      // Categories first, then their looks: a category with two looks is not learnt twice as often.
      const auto& category = world.categories()[static_cast<std::size_t>(i) % world.categories().size()];
      const std::size_t sprite = category.sprites[rng.below(category.sprites.size())];
      auto picture =
          miniworld::make_picture(world, sprite, miniworld::random_description(rng), static_cast<int>(side), rng);
      const auto [row, mask] = if_tokens(tokenizer, picture.caption);
      ids.push_back(row);
      masks.push_back(mask);
      images.push_back(std::move(picture.rgb));
    }
    std::vector<const image::Image*> pointers;
    for (const auto& image : images) pointers.push_back(&image);
    pixels.push_back(to_unit_range(pointers).add(1).mul(127.5).round().to(at::kByte));
  }
  out.pixels = at::cat(pixels);
  out.ids = at::cat(ids);
  out.mask = at::cat(masks);
  return out;
}

at::Tensor IfPictures::images(const at::Tensor& rows) const {
  return pixels.index_select(0, rows).to(at::kFloat).div_(127.5).sub_(1);
}

HybridLoss::HybridLoss(const models::NoiseSchedule& schedule, double snr_limit, double bound_weight)
    : bound_weight_(bound_weight) {
  const at::Tensor a = schedule.alphas_cumprod.to(at::kDouble), beta = schedule.betas.to(at::kDouble);
  const at::Tensor previous = at::cat({at::ones({1}, at::kDouble), a.narrow(0, 0, a.size(0) - 1)});
  const at::Tensor snr = a / (1 - a);
  weights_ = (snr.clamp_max(snr_limit) / snr).to(at::kFloat);
  // At time 0 the posterior has no variance: that of time 1 stands in, as in Improved DDPM.
  at::Tensor posterior = beta * (1 - previous) / (1 - a);
  posterior = at::cat({posterior.narrow(0, 1, 1), posterior.narrow(0, 1, a.size(0) - 1)});
  log_posterior_ = posterior.log().to(at::kFloat);
  log_beta_ = beta.log().to(at::kFloat);
  // mean = √abar' β/(1-abar) x0 + ..., and x0 = (x - √(1-abar) noise)/√abar.
  mean_per_error_ = (previous.sqrt() * beta / (1 - a) * (1 - a).sqrt() / a.sqrt()).to(at::kFloat);
}

/// Bits a dimension of each sample's step, [N]: Kullback-Leibler divergence from the true posterior, or at time 0 the
/// likelihood of the picture. `error` (predicted - true noise) comes without its graph: only the variance learns.
at::Tensor HybridLoss::bound(const at::Tensor& error, const at::Tensor& place, const at::Tensor& x0,
                             const at::Tensor& t) const {
  const at::Tensor low = of_times(log_posterior_, t), high = of_times(log_beta_, t), share = (place + 1) / 2;
  const at::Tensor log_variance = share * high + (1 - share) * low, shift = of_times(mean_per_error_, t) * error;
  const at::Tensor divergence =
      0.5 * (log_variance - low - 1 + at::exp(low - log_variance) + shift.pow(2) * at::exp(-log_variance));
  // At time 0 the mean is x0 as predicted, off by just that shift.
  const at::Tensor likelihood = discretized_nll(x0, x0 - shift, 0.5 * log_variance);
  const at::Tensor nats = at::where(t.view({-1, 1, 1, 1}) == 0, likelihood, divergence);
  return nats.mean({1, 2, 3}) / std::numbers::ln2;
}

HybridLoss::Terms HybridLoss::of(const at::Tensor& output, const at::Tensor& x0, const at::Tensor& noise,
                                 const at::Tensor& t) const {
  const auto halves = output.chunk(2, 1);
  const at::Tensor error = halves[0] - noise, squared = error.pow(2).mean({1, 2, 3});
  const at::Tensor bits = bound(error.detach(), halves[1], x0, t);
  return {(squared * weights_.index_select(0, t)).mean() + bound_weight_ * bits.mean(), squared.detach().mean(),
          bits.detach().mean()};
}

nlohmann::json if_scheduler_json(int stage) {
  nlohmann::json json = if_noising_json();
  json["dynamic_thresholding_ratio"] = 0.95;
  json["sample_max_value"] = stage == 1 ? 1.5 : 1.0;
  json["thresholding"] = true;
  // Not the published learned_range: between the far-apart steps of a short run, the variance that was learnt for
  // neighbouring steps leaves noise in the picture. The pipeline (diffusers' too) then drops the variance channels.
  json["variance_type"] = "fixed_small";
  return json;
}

nlohmann::json if_noising_json() {
  return {{"_class_name", "DDPMScheduler"},
          {"beta_end", 0.02},
          {"beta_schedule", "squaredcos_cap_v2"},
          {"beta_start", 0.0001},
          {"clip_sample", true},
          {"clip_sample_range", 1.0},
          {"dynamic_thresholding_ratio", 0.995},
          {"num_train_timesteps", 1000},
          {"prediction_type", "epsilon"},
          {"sample_max_value", 1.0},
          {"thresholding", false},
          {"trained_betas", nullptr},
          {"variance_type", "fixed_small"}};
}

}  // namespace divergen::stages
