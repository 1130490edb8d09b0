#pragma once

#include "models/config_json.hpp"

namespace divergen::models {

/// Sizes of a SAM; the published ViT-B/L/H differ only in these (reference/generation.md §2). The JSON beside the
/// weights uses these names.
struct SamConfig {
  std::int64_t img_size = 1024, patch = 16, embed = 768, depth = 12, heads = 12, window = 14;
  std::vector<std::int64_t> glob{2, 5, 8, 11};  // blocks with global attention
  double mlp_ratio = 4;
  std::int64_t dim = 256;  // of prompts and mask decoder
  std::int64_t decoder_depth = 2, decoder_heads = 8, decoder_mlp = 2048;
  std::int64_t iou_head_depth = 3, iou_head_hidden = 256, mask_in_chans = 16;

  static SamConfig from(const ModelConfig& config);
  nlohmann::json to_json() const;
  /// "vit_b", "vit_l", "vit_h"; throws Error(Config) for others.
  static SamConfig published(const std::string& name);
  std::int64_t grid() const { return img_size / patch; }
};

}  // namespace divergen::models
