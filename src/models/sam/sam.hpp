#pragma once
// Segment Anything: the whole model, and what is done to pictures before and to masks after it.

#include "image/image.hpp"
#include "models/sam/decoder.hpp"
#include "models/sam/image_encoder.hpp"

namespace divergen::models {

struct Sam : nn::Module {
  explicit Sam(const SamConfig& config);

  SamConfig config;
  SamImageEncoder image_encoder;
  SamPromptEncoder prompt_encoder;
  SamMaskDecoder mask_decoder;
};

/// A picture as the encoder wants it.
struct SamInput {
  at::Tensor
      pixels;  // [1, 3, img_size, img_size]: longest side resized as Pillow does, normalised, zeros right and below
  std::int64_t height = 0, width = 0;  // of the resized picture
  std::int64_t original_height = 0, original_width = 0;
};
SamInput prepare_for_sam(const image::Image& rgb, std::int64_t img_size);

/// Points in pixels of the original picture -> pixels of the model's input. [..., 2] as (x, y).
at::Tensor to_sam_points(const at::Tensor& points, const SamInput& input);

/// Low-resolution logits [B, M, h, w] -> logits at the original size.
at::Tensor upscale_masks(const at::Tensor& low_res, const SamInput& input, std::int64_t img_size);

/// Weights: a .safetensors file with config.json beside it, or a folder that holds model.safetensors and config.json.
std::unique_ptr<Sam> load_sam(const Path& path);

/// segment-anything's initial values (default layers, zero positions, unit normal embeddings).
void init_sam(Sam& sam, at::Generator& generator);

}  // namespace divergen::models
