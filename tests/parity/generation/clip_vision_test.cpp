// CLIP's picture preprocessing and features against openai/CLIP and transformers.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "models/clip/clip.hpp"
#include "support/fixtures_torch.hpp"
#include "weights/key_maps.hpp"

namespace divergen::models {
namespace {

image::Image to_image(const at::Tensor& hwc) {
  image::Image out(static_cast<int>(hwc.size(0)), static_cast<int>(hwc.size(1)), static_cast<int>(hwc.size(2)));
  std::memcpy(out.pixels.data(), hwc.contiguous().const_data_ptr(), out.pixels.size());
  return out;
}

/// Large pictures are stored as a small one and a rule (the fixture's note).
at::Tensor rebuild(const nn::TensorMap& tensors, const std::string& name) {
  if (tensors.contains(name + "image")) return tensors.at(name + "image");
  at::Tensor small = tensors.at(name + "small128").to(at::kInt);
  const at::Tensor big = small.repeat_interleave(4, 0).repeat_interleave(4, 1);
  const at::Tensor x = at::arange(big.size(1)).view({1, -1, 1}), y = at::arange(big.size(0)).view({-1, 1, 1});
  const at::Tensor sized = big + (((7 * x + 13 * y).remainder(17)) - 8).to(at::kInt);
  const at::Tensor sizes = tensors.at(name + "sizes");
  return sized.clamp(0, 255)
      .to(at::kByte)
      .slice(0, 0, sizes[0].item<std::int64_t>())
      .slice(1, 0, sizes[1].item<std::int64_t>());
}

/// The fixture's pictures as the model takes them, [N, 3, size, size]; the masked one last where there is one.
std::vector<at::Tensor> pictures(const nn::TensorMap& expected, std::int64_t size) {
  std::vector<at::Tensor> batch;
  for (int n = 0; expected.contains(cat("img", n, ".sizes")); ++n)
    batch.push_back(prepare_for_clip(to_image(rebuild(expected, cat("img", n, "."))), size));
  if (expected.contains("masked.mask")) {
    // DiverGen's masked variant: pixels outside the mask become 1 (reference/semantics.md §5.4).
    const at::Tensor image = expected.at("img0.image"), inside = expected.at("masked.mask").gt(0).unsqueeze(-1);
    batch.push_back(prepare_for_clip(to_image(at::where(inside, image, at::ones_like(image))), size));
  }
  return batch;
}

/// OpenAI's archive has no configuration: sizes are those of its tensors, heads are 64 wide.
std::unique_ptr<Clip> clip_from(const weights::WeightSource& hf) {
  const auto shape = [&](const std::string& name) { return at::IntArrayRef(hf.find(name)->shape).vec(); };
  const auto layers = [&](const std::string& tower) {
    std::int64_t count = 0;
    while (hf.find(cat(tower, ".encoder.layers.", count, ".layer_norm1.weight")) != nullptr) ++count;
    return count;
  };
  const auto patch = shape("vision_model.embeddings.patch_embedding.weight");
  const auto places = shape("vision_model.embeddings.position_embedding.weight");
  ClipVisionConfig vision;
  vision.hidden_size = patch[0];
  vision.patch_size = patch[2];
  vision.image_size = patch[2] * std::llround(std::sqrt(static_cast<double>(places[0] - 1)));
  vision.layers = layers("vision_model");
  vision.heads = vision.hidden_size / 64;
  vision.intermediate_size = shape("vision_model.encoder.layers.0.mlp.fc1.weight")[0];
  const auto words = shape("text_model.embeddings.token_embedding.weight");
  ClipTextConfig text;
  text.vocab_size = words[0];
  text.hidden_size = words[1];
  text.positions = shape("text_model.embeddings.position_embedding.weight")[0];
  text.layers = layers("text_model");
  text.heads = text.hidden_size / 64;
  text.intermediate_size = shape("text_model.encoder.layers.0.mlp.fc1.weight")[0];
  auto clip = std::make_unique<Clip>(text, vision, shape("visual_projection.weight")[0]);
  nn::load_module(*clip, hf, {.may_miss = is_optional_clip_key});
  return clip;
}

at::Tensor unit(const at::Tensor& x) { return x / x.norm(2, -1, true); }

}  // namespace

TEST(clip_vision, OpenAisArchiveGivesItsFeaturesUnderTransformersNames) {
  at::NoGradGuard no_grad;
  const Path folder = test::fixtures("generation");
  const auto expected = test::fixture_tensors(folder / "clip_vision.safetensors");
  Path archive;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "clip_tiny"))
    if (entry.path().extension() == ".pt") archive = entry.path();
  const auto hf = weights::map_keys(weights::open_weights(archive), "clip-openai-to-hf");
  const auto clip = clip_from(*hf);

  const at::Tensor images = clip->image_features(at::cat(pictures(expected, clip->vision_model.config.image_size)));
  const at::Tensor texts = clip->text_features(expected.at("openai.text_tokens").to(at::kLong));

  EXPECT_TENSOR_NEAR(unit(images), unit(expected.at("openai.image_features").to(at::kFloat)), 2e-5);
  EXPECT_TENSOR_NEAR(unit(texts), unit(expected.at("openai.text_features").to(at::kFloat)), 2e-5);
}

TEST(clip_vision, EqualsTheReferences) {
  at::NoGradGuard no_grad;
  const Path folder = test::fixtures("generation");
  const auto expected = test::fixture_tensors(folder / "clip_vision.safetensors");
  const auto clip = load_clip_vision(folder / "clip_tiny/hf");
  const auto size = clip->vision_model.config.image_size;
  const std::vector<at::Tensor> batch = pictures(expected, size);

  for (int n = 0; expected.contains(cat("img", n, ".sizes")); ++n) {
    const std::string name = cat("img", n, ".");
    const at::Tensor thin =
        batch[static_cast<std::size_t>(n)][0].slice(1, 0, std::nullopt, 7).slice(2, 0, std::nullopt, 7);
    EXPECT_TENSOR_NEAR(thin, expected.at(name + "tensor_sub7"), 1e-6) << name;
  }
  const at::Tensor embeds = clip->image_features(at::cat(batch));

  EXPECT_TENSOR_NEAR(unit(embeds), unit(expected.at("hf.image_embeds")), 2e-5);
}

}  // namespace divergen::models
