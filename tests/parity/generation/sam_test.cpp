// Segment Anything against segment-anything 1.0: preprocessing, encoder, prompts, masks, DiverGen's background
// annotation.

#include <gtest/gtest.h>

#include <cstring>

#include "models/annotator.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

constexpr double kForward = 5e-5;  // values are O(1), through up to 32 blocks (reference/generation.md §5)

image::Image to_image(const at::Tensor& hwc) {
  image::Image out(static_cast<int>(hwc.size(0)), static_cast<int>(hwc.size(1)), static_cast<int>(hwc.size(2)));
  std::memcpy(out.pixels.data(), hwc.contiguous().const_data_ptr(), out.pixels.size());
  return out;
}

class sam : public testing::TestWithParam<std::string> {};

/// The fixtures keep every n-th element of large tensors of the 1024 px case.
at::Tensor thinned(const at::Tensor& ours, const at::Tensor& reference, std::int64_t step) {
  if (ours.size(-1) == reference.size(-1)) return ours;
  return ours.slice(-2, 0, std::nullopt, step).slice(-1, 0, std::nullopt, step);
}

/// Every n-th row and column of [1, H, W, C], as the traces keep them.
at::Tensor thin(const at::Tensor& x, const at::Tensor& reference) {
  return x.slice(1, 0, std::nullopt, x.size(1) / reference.size(1))
      .slice(2, 0, std::nullopt, x.size(2) / reference.size(2));
}

}  // namespace

TEST_P(sam, EqualsSegmentAnything) {
  at::NoGradGuard no_grad;
  const Path folder = test::fixtures("generation");
  if (!std::filesystem::exists(folder / GetParam())) GTEST_SKIP() << "no such case in this set";
  const auto model = load_sam(folder / GetParam() / "sam_tiny.pth");
  const auto expected = test::fixture_tensors(folder / cat(GetParam(), ".safetensors"));

  for (int n = 0; expected.contains(cat("img", n, ".image")); ++n) {
    const std::string image_name = cat("img", n, ".");
    const SamInput input = prepare_for_sam(to_image(expected.at(image_name + "image")), model->config.img_size);
    for (const std::int64_t step : {4, 16})
      if (const auto thin = expected.find(cat(image_name, "input_sub", step)); thin != expected.end())
        EXPECT_TENSOR_NEAR(input.pixels.slice(2, 0, std::nullopt, step).slice(3, 0, std::nullopt, step), thin->second,
                           1e-6)
            << image_name;
    if (expected.contains(image_name + "trace.patch_embed")) {
      at::Tensor x = model->image_encoder.patch_embed.proj.forward(input.pixels).permute({0, 2, 3, 1});
      const auto trace = [&](const char* part) { return expected.at(image_name + "trace." + part); };
      EXPECT_TENSOR_NEAR(thin(x, trace("patch_embed")), trace("patch_embed"), kForward);
      x = x + model->image_encoder.pos_embed;
      for (std::size_t i = 0; i < model->image_encoder.blocks.size(); ++i) {
        x = model->image_encoder.blocks[i].forward(x);
        const std::string part = cat("block_", i);
        if (expected.contains(image_name + "trace." + part))
          EXPECT_TENSOR_NEAR(thin(x, trace(part.c_str())), trace(part.c_str()), kForward) << part;
      }
    }
    const at::Tensor embedding = model->image_encoder.forward(input.pixels);
    EXPECT_TENSOR_NEAR(thinned(embedding, expected.at(image_name + "embedding"), 2),
                       expected.at(image_name + "embedding"), kForward)
        << image_name;
    for (const std::string prompt : {"corner0", "corner5", "xy"}) {
      const std::string name = image_name + prompt + ".";
      if (!expected.contains(name + "points")) continue;
      const at::Tensor points = to_sam_points(expected.at(name + "points").unsqueeze(0), input);
      EXPECT_TENSOR_NEAR(points, expected.at(name + "points_model"), 1e-4) << name;
      const at::Tensor sparse = model->prompt_encoder.points(points, at::ones({1, points.size(1)}, at::kLong));
      EXPECT_TENSOR_NEAR(sparse, expected.at(name + "sparse"), kForward) << name;
      const auto out = model->mask_decoder.forward(embedding, model->prompt_encoder.pe_layer.grid(model->config.grid()),
                                                   sparse, model->prompt_encoder.no_mask());
      const at::Tensor low = out.masks.narrow(1, 1, 3);
      EXPECT_TENSOR_NEAR(thinned(low, expected.at(name + "low_res"), 2), expected.at(name + "low_res"), kForward)
          << name;
      EXPECT_TENSOR_NEAR(out.iou.narrow(1, 1, 3), expected.at(name + "iou"), kForward) << name;
      if (expected.contains(name + "mask_bool")) {
        const at::Tensor logits = upscale_masks(low, input, model->config.img_size)[0];
        const at::Tensor flipped = logits.gt(0).ne(expected.at(name + "mask_bool").gt(0));
        EXPECT_EQ(flipped.logical_and(logits.abs().gt(1e-4)).sum().item<std::int64_t>(), 0) << name;
      }
    }
  }
}

/// The project carries the smaller set alone (both walk the same code, windows and global attention); a folder that is
/// given must hold both.
std::vector<std::string> sizes() {
  const char* given = std::getenv("DIVERGEN_FIXTURES");
  if (given != nullptr && *given != '\0') return {"sam256", "sam1024"};
  return {"sam256"};
}

INSTANTIATE_TEST_SUITE_P(sizes, sam, testing::ValuesIn(sizes()), [](const auto& info) { return info.param; });

}  // namespace divergen::models
