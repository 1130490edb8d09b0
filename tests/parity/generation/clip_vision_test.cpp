// CLIP's picture preprocessing and features against openai/CLIP and transformers.

#include <gtest/gtest.h>

#include <cstring>

#include "models/clip/clip.hpp"
#include "support/fixtures_torch.hpp"

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

}  // namespace

TEST(clip_vision, EqualsTheReferences) {
  at::NoGradGuard no_grad;
  const Path folder = test::fixtures("generation");
  const auto expected = test::fixture_tensors(folder / "clip_vision.safetensors");
  const auto clip = load_clip_vision(folder / "clip_tiny/hf");
  const auto size = clip->vision_model.config.image_size;
  std::vector<at::Tensor> batch;

  for (int n = 0; expected.contains(cat("img", n, ".sizes")); ++n) {
    const std::string name = cat("img", n, ".");
    batch.push_back(prepare_for_clip(to_image(rebuild(expected, name)), size));
    const at::Tensor thin = batch.back()[0].slice(1, 0, std::nullopt, 7).slice(2, 0, std::nullopt, 7);
    EXPECT_TENSOR_NEAR(thin, expected.at(name + "tensor_sub7"), 1e-6) << name;
  }
  if (expected.contains("masked.mask")) {
    // DiverGen's masked variant: pixels outside the mask become 1 (reference/semantics.md §5.4).
    const at::Tensor image = expected.at("img0.image"), inside = expected.at("masked.mask").gt(0).unsqueeze(-1);
    batch.push_back(prepare_for_clip(to_image(at::where(inside, image, at::ones_like(image))), size));
  }
  const at::Tensor embeds = clip->image_features(at::cat(batch));

  EXPECT_TENSOR_NEAR(embeds / embeds.norm(2, -1, true),
                     expected.at("hf.image_embeds") / expected.at("hf.image_embeds").norm(2, -1, true), 2e-5);
}

}  // namespace divergen::models
