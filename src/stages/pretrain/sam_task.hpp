#pragma once
// Trains the miniature SAM: four points, on an object or on the background, to the mask of what they lie on.
// Cross-entropy and dice loss on all four masks (so that the third alternative, which DiverGen takes, is always the
// whole), squared error on their predicted overlap (Kirillov et al. 2023, §A).

#include "models/sam/sam.hpp"
#include "stages/pretrain/pictures.hpp"
#include "stages/pretrain/trainer.hpp"

namespace divergen::stages {

struct SamTaskOptions {
  models::SamConfig model;
  double background_share = 0.5;  // share of prompts that lie on the background
};

class SamTask : public PretrainTask {
 public:
  SamTask(const miniworld::World& world, SamTaskOptions options);
  nn::Module& module() override { return model_; }
  void initialise(std::uint64_t seed) override;
  std::any make_batch(Rng rng, std::int64_t size) const override;
  at::Tensor loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) override;
  void sample(const Path& folder, std::int64_t iteration) override;
  void write(const Path& folder) override;  // model.safetensors, config.json

 private:
  struct Batch {
    std::vector<image::Image> pictures;
    at::Tensor pixels;   // [B, 3, S, S]
    at::Tensor points;   // [B, 4, 2]
    at::Tensor targets;  // [B, 1, 4G, 4G] 0/1
  };
  Batch scenes(Rng rng, std::int64_t size) const;
  models::SamMaskDecoder::Output forward(const Batch& batch) const;

  const miniworld::World& world_;
  SamTaskOptions options_;
  models::Sam model_;
};

}  // namespace divergen::stages
