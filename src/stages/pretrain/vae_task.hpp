#pragma once
// Trains the miniature autoencoder of Stable Diffusion: L1 + MSE + image-gradient loss, a small KL term.

#include "models/diffusion/autoencoder_kl.hpp"
#include "stages/pretrain/pictures.hpp"
#include "stages/pretrain/trainer.hpp"

namespace divergen::stages {

struct VaeTaskOptions {
  models::VaeConfig model;
  double gradient_weight = 0.5;
  double mse_weight = 2;
  double kl_weight = 1e-5;
  double other_share = 0.5;  // share of pictures that show things outside the named categories
};

class VaeTask : public PretrainTask {
 public:
  VaeTask(const miniworld::World& world, VaeTaskOptions options);

  nn::Module& module() override { return model_; }
  void initialise(std::uint64_t seed) override;
  std::any make_batch(Rng rng, std::int64_t size) const override;
  at::Tensor loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) override;
  void sample(const Path& folder, std::int64_t iteration) override;
  /// A diffusers folder; scaling_factor is one over the latents' standard deviation, as for the published model.
  void write(const Path& folder) override;

 private:
  at::Tensor pictures(Rng rng, std::int64_t count) const;

  const miniworld::World& world_;
  VaeTaskOptions options_;
  std::vector<std::size_t> named_, other_;
  models::AutoencoderKL model_;
};

}  // namespace divergen::stages
