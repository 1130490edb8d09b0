#include "stages/pretrain/vae_task.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include "nn/tensor_io.hpp"

namespace divergen::stages {
namespace {

at::Tensor difference(const at::Tensor& x, std::int64_t dim) {
  return x.narrow(dim, 1, x.size(dim) - 1) - x.narrow(dim, 0, x.size(dim) - 1);
}

/// L1 between horizontal and vertical differences: sharp edges count.
at::Tensor gradient_loss(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor error = a - b;
  return difference(error, 3).abs().mean() + difference(error, 2).abs().mean();
}

}  // namespace

VaeTask::VaeTask(const miniworld::World& world, VaeTaskOptions options)
    : world_(world),
      options_(std::move(options)),
      named_(named_sprites(world)),
      other_(world.sprites_of(miniworld::Role::Other)),
      model_(options_.model) {}

void VaeTask::initialise(std::uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  nn::init_default(model_, generator);
}

at::Tensor VaeTask::pictures(Rng rng, std::int64_t count) const {
  std::vector<image::Image> images;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto& from = rng.chance(options_.other_share) ? other_ : named_;
    const std::size_t sprite = from[rng.below(from.size())];
    images.push_back(miniworld::make_picture(world_, sprite, miniworld::random_description(rng),
                                             static_cast<int>(options_.model.sample_size), rng)
                         .rgb);
  }
  std::vector<const image::Image*> pointers;
  for (const auto& image : images) pointers.push_back(&image);
  return to_unit_range(pointers);
}

std::any VaeTask::make_batch(Rng rng, std::int64_t size) const { return pictures(rng, size); }

at::Tensor VaeTask::loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const auto& x = std::any_cast<const at::Tensor&>(batch);
  const auto posterior = model_.encode(x);
  const at::Tensor noise = at::randn(posterior.mean.sizes(), generator);
  const at::Tensor y = model_.decode(posterior.mean + (0.5 * posterior.logvar).exp() * noise);
  const at::Tensor l1 = (y - x).abs().mean(), mse = (y - x).pow(2).mean(), edges = gradient_loss(y, x);
  const at::Tensor kl = 0.5 * (posterior.mean.pow(2) + posterior.logvar.exp() - 1 - posterior.logvar).mean();
  terms["l1"] = l1.detach();
  terms["edges"] = edges.detach();
  terms["kl"] = kl.detach();
  return l1 + options_.mse_weight * mse + options_.gradient_weight * edges + options_.kl_weight * kl;
}

void VaeTask::sample(const Path& folder, std::int64_t iteration) {
  constexpr std::uint64_t kSampleSeed = 5;
  const at::Tensor x = pictures(Rng(kSampleSeed), 32);
  const auto originals = to_images(x), decoded = to_images(model_.decode(model_.encode(x).mean));
  std::vector<image::Image> all;
  for (std::size_t row = 0; row < 4; ++row) {
    all.insert(all.end(), originals.begin() + static_cast<std::ptrdiff_t>(8 * row),
               originals.begin() + static_cast<std::ptrdiff_t>(8 * row + 8));
    all.insert(all.end(), decoded.begin() + static_cast<std::ptrdiff_t>(8 * row),
               decoded.begin() + static_cast<std::ptrdiff_t>(8 * row + 8));
  }
  write_file_atomic(folder / cat("sample-", iteration, ".png"), image::encode_png(mosaic(all, 16)));
}

void VaeTask::write(const Path& folder) {
  constexpr std::uint64_t kScaleSeed = 6;
  make_folder(folder);
  models::VaeConfig config = options_.model;
  const at::Tensor latents = model_.encode(pictures(Rng(kScaleSeed), 256)).mean;
  config.scaling_factor = 1.0 / latents.std().item<double>();
  nn::save_module(model_, folder / "diffusion_pytorch_model.safetensors", at::kHalf, {{"format", "pt"}});
  write_file_atomic(folder / "config.json", config.to_json().dump(2) + "\n");
}

}  // namespace divergen::stages
