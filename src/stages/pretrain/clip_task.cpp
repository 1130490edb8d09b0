#include "stages/pretrain/clip_task.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include <set>

#include "base/log.hpp"
#include "nn/tensor_io.hpp"
#include "stages/pretrain/layout.hpp"

namespace divergen::stages {
namespace {

/// Real crops have blurred surroundings, generated ones black, prompts plain backgrounds: CLIP must see through all.
void change_background(miniworld::Picture& picture, Rng& rng) {
  const auto kind = rng.below(3);
  if (kind == 0) return;
  image::Image noise(picture.rgb.height, picture.rgb.width, 3);
  if (kind == 2) {
    double colour[2][3];
    for (auto& end : colour)
      for (double& channel : end) channel = rng.uniform(20, 235);
    for (int y = 0; y < noise.height; ++y)
      for (int x = 0; x < noise.width; ++x)
        for (int k = 0; k < 3; ++k) {
          const double t = (x + y) / static_cast<double>(noise.width + noise.height);
          noise.at(y, x)[k] = static_cast<std::uint8_t>((1 - t) * colour[0][k] + t * colour[1][k]);
        }
  }
  for (std::size_t i = 0; i < picture.mask.pixels.size(); ++i) {
    const int a = picture.mask.pixels[i];
    for (std::size_t k = 0; k < 3; ++k) {
      auto& p = picture.rgb.pixels[3 * i + k];
      p = static_cast<std::uint8_t>((p * a + noise.pixels[3 * i + k] * (255 - a)) / 255);
    }
  }
}

}  // namespace

ClipTask::ClipTask(const miniworld::World& world, ClipTaskOptions options)
    : world_(world),
      options_(std::move(options)),
      tokenizer_(options_.tokenizer),
      model_(options_.text, options_.vision, options_.projection) {}

void ClipTask::initialise(std::uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  models::init_clip(model_, generator);
  // Words that no caption uses never learn anything: their rows stay zero, not noise.
  at::NoGradGuard no_grad;
  auto& table = model_.text_model.embeddings.token_embedding.weight;
  at::Tensor used = at::zeros({table.size(0)}, at::kBool);
  constexpr std::int64_t kSurvey = 4000;
  used.index_fill_(0, pictures(Rng(derive_seed(seed, "survey")), kSurvey).ids.flatten(), true);
  table.mul_(used.unsqueeze(1));
}

ClipTask::Batch ClipTask::pictures(Rng rng, std::int64_t size) const {
  std::vector<at::Tensor> images, ids;
  std::set<std::string> names;  // of the current group: two looks of one category would be each other's wrong answer
  while (static_cast<std::int64_t>(images.size()) < size) {
    // Named categories are an eighth of the sprites but half of the lessons.
    const bool is_named = rng.chance(0.5);
    const auto& category = world_.categories()[rng.below(world_.categories().size())];
    const std::size_t sprite =
        is_named ? category.sprites[rng.below(category.sprites.size())] : rng.below(world_.sprites().size());
    if (names.size() >= 64) names.clear();
    if (!names.insert(world_.sprites()[sprite].name).second) continue;
    auto picture = miniworld::make_picture(world_, sprite, miniworld::random_description(rng),
                                           static_cast<int>(options_.vision.image_size), rng);
    change_background(picture, rng);
    images.push_back(models::prepare_for_clip(picture.rgb, options_.vision.image_size));
    ids.push_back(at::tensor(tokenizer_.encode_padded(picture.caption), at::kLong));
  }
  return {at::cat(images), at::stack(ids)};
}

std::any ClipTask::make_batch(Rng rng, std::int64_t size) const { return pictures(rng, size); }

at::Tensor ClipTask::loss(const std::any& batch, std::uint64_t, std::map<std::string, at::Tensor>& terms) {
  const auto& b = std::any_cast<const Batch&>(batch);
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, -1, true); };
  const at::Tensor logits = model_.logit_scale.clamp_max(std::log(100.0)).exp() *
                            at::matmul(unit(model_.image_features(b.images)), unit(model_.text_features(b.ids)).t());
  const at::Tensor labels = at::arange(logits.size(0));
  terms["accuracy"] = logits.detach().argmax(1).eq(labels).to(at::kFloat).mean();
  return 0.5 * (at::cross_entropy_loss(logits, labels) + at::cross_entropy_loss(logits.t(), labels));
}

void ClipTask::sample(const Path&, std::int64_t iteration) {
  constexpr std::uint64_t kSampleSeed = 11;
  const Batch b = pictures(Rng(kSampleSeed), 64);
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, -1, true); };
  const at::Tensor cosine = at::matmul(unit(model_.image_features(b.images)), unit(model_.text_features(b.ids)).t());
  log::info("iteration ", iteration, ": of 64 pictures ",
            cosine.argmax(1).eq(at::arange(64)).sum().item<std::int64_t>(), " find their caption");
}

void ClipTask::write(const Path& folder) {
  copy_files(options_.tokenizer, folder);
  nn::save_module(model_, folder / "model.safetensors", at::kHalf, {{"format", "pt"}});
  write_file_atomic(folder / "config.json",
                    models::clip_config_json(options_.text, options_.vision, options_.projection).dump(2) + "\n");
}

}  // namespace divergen::stages
