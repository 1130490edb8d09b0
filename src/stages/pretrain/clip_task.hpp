#pragma once
// Trains the miniature CLIP on pictures and captions of all sprites: symmetric cross-entropy over a batch of different
// things (Radford et al. 2021, §2.3).

#include "models/clip/clip.hpp"
#include "stages/pretrain/pictures.hpp"
#include "stages/pretrain/trainer.hpp"
#include "tokenizers/clip_bpe.hpp"

namespace divergen::stages {

struct ClipTaskOptions {
  models::ClipTextConfig text;
  models::ClipVisionConfig vision;
  std::int64_t projection = 64;
  Path tokenizer;
};

class ClipTask : public PretrainTask {
 public:
  ClipTask(const miniworld::World& world, ClipTaskOptions options);
  nn::Module& module() override { return model_; }
  void initialise(std::uint64_t seed) override;
  std::any make_batch(Rng rng, std::int64_t size) const override;
  at::Tensor loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) override;
  void sample(const Path& folder, std::int64_t iteration) override;
  void write(const Path& folder) override;  // a transformers folder

 private:
  struct Batch {
    at::Tensor images, ids;
  };
  Batch pictures(Rng rng, std::int64_t size) const;

  const miniworld::World& world_;
  ClipTaskOptions options_;
  tokenizers::ClipBpe tokenizer_;
  models::Clip model_;
};

}  // namespace divergen::stages
