#include "models/sam/sam.hpp"

#include <cstring>

#include "image/pil_resize.hpp"
#include "nn/tensor_io.hpp"

namespace divergen::models {
namespace {

// Of segment-anything's build_sam, in 0..255 units; not in the weight file.
constexpr double kMean[] = {123.675, 116.28, 103.53};
constexpr double kStd[] = {58.395, 57.12, 57.375};

}  // namespace

Sam::Sam(const SamConfig& c) : config(c), image_encoder(c), prompt_encoder(c), mask_decoder(c) {
  child("image_encoder", image_encoder);
  child("prompt_encoder", prompt_encoder);
  child("mask_decoder", mask_decoder);
}

SamInput prepare_for_sam(const image::Image& rgb, std::int64_t img_size) {
  DIVERGEN_CHECK(rgb.channels == 3 && !rgb.empty());
  const double scale = static_cast<double>(img_size) / std::max(rgb.height, rgb.width);
  SamInput input;
  input.original_height = rgb.height;
  input.original_width = rgb.width;
  input.height = static_cast<std::int64_t>(rgb.height * scale + 0.5);
  input.width = static_cast<std::int64_t>(rgb.width * scale + 0.5);
  const image::Image resized =
      image::pil_resize(rgb, static_cast<int>(input.height), static_cast<int>(input.width), image::Filter::Bilinear);
  at::Tensor bytes = at::empty({input.height, input.width, 3}, at::kByte);
  std::memcpy(bytes.data_ptr(), resized.pixels.data(), resized.pixels.size());
  const at::Tensor mean = at::tensor(at::ArrayRef<double>(kMean, 3), at::kFloat).view({3, 1, 1});
  const at::Tensor std = at::tensor(at::ArrayRef<double>(kStd, 3), at::kFloat).view({3, 1, 1});
  const at::Tensor x = (bytes.permute({2, 0, 1}).to(at::kFloat) - mean) / std;
  input.pixels = at::constant_pad_nd(x, {0, img_size - input.width, 0, img_size - input.height}).unsqueeze(0);
  return input;
}

at::Tensor to_sam_points(const at::Tensor& points, const SamInput& input) {
  const double sx = static_cast<double>(input.width) / static_cast<double>(input.original_width);
  const double sy = static_cast<double>(input.height) / static_cast<double>(input.original_height);
  return (points.to(at::kDouble) * at::tensor({sx, sy}, at::kDouble)).to(at::kFloat);
}

at::Tensor upscale_masks(const at::Tensor& low_res, const SamInput& input, std::int64_t img_size) {
  const at::Tensor full = at::upsample_bilinear2d(low_res, {img_size, img_size}, false);
  const at::Tensor cropped = full.narrow(2, 0, input.height).narrow(3, 0, input.width).contiguous();
  return at::upsample_bilinear2d(cropped, {input.original_height, input.original_width}, false);
}

std::unique_ptr<Sam> load_sam(const Path& path) {
  const bool is_folder = std::filesystem::is_directory(path);
  const Path folder = is_folder ? path : path.parent_path();
  auto model = std::make_unique<Sam>(SamConfig::from(ModelConfig(folder / "config.json")));
  nn::load_module(*model, is_folder ? path / "model.safetensors" : path);
  return model;
}

void init_sam(Sam& sam, at::Generator& generator) {
  nn::init_default(sam, generator);
  at::NoGradGuard no_grad;
  sam.image_encoder.pos_embed.zero_();
  for (SamBlock* block : sam.image_encoder.blocks) {
    block->attn.rel_pos_h.zero_();
    block->attn.rel_pos_w.zero_();
  }
  auto& prompts = sam.prompt_encoder;
  prompts.pe_layer.positional_encoding_gaussian_matrix.normal_(0, 1, generator);
  for (nn::Embedding* embedding : prompts.point_embeddings) embedding->weight.normal_(0, 1, generator);
  for (at::Tensor* weight : {&prompts.not_a_point_embed.weight, &prompts.no_mask_embed.weight,
                             &sam.mask_decoder.iou_token.weight, &sam.mask_decoder.mask_tokens.weight})
    weight->normal_(0, 1, generator);
}

}  // namespace divergen::models
