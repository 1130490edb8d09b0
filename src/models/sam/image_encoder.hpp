#pragma once
// SAM's ViT: windowed and global attention with decomposed relative positions (reference/generation.md §3).
// Tokens stay a picture: [B, H, W, C].

#include "models/sam/config.hpp"
#include "nn/layers.hpp"

namespace divergen::models {

struct SamAttention : nn::Module {
  SamAttention(const SamConfig& config, std::int64_t side);
  at::Tensor forward(const at::Tensor& x) const;  // [B, H, W, C]
  std::int64_t heads;
  at::Tensor rel_pos_h, rel_pos_w;  // [2·side-1, C/heads]
  nn::Linear qkv, proj;
};

struct SamMlp : nn::Module {
  SamMlp(std::int64_t width, std::int64_t inner);
  nn::Linear lin1, lin2;
};

struct SamBlock : nn::Module {
  SamBlock(const SamConfig& config, bool is_global);
  at::Tensor forward(const at::Tensor& x) const;
  std::int64_t window;  // 0: global
  nn::LayerNorm norm1;
  SamAttention attn;
  nn::LayerNorm norm2;
  SamMlp mlp;
};

struct SamPatchEmbed : nn::Module {
  explicit SamPatchEmbed(const SamConfig& config);
  nn::Conv2d proj;
};

struct SamImageEncoder : nn::Module {
  explicit SamImageEncoder(const SamConfig& config);
  /// [B, 3, img_size, img_size] normalised -> [B, dim, grid, grid].
  at::Tensor forward(const at::Tensor& images) const;
  at::Tensor pos_embed;  // [1, grid, grid, C]
  SamPatchEmbed patch_embed;
  nn::List<SamBlock> blocks;

 private:
  struct Neck : nn::Module {
    explicit Neck(const SamConfig& config);
    nn::Conv2d conv1;
    nn::LayerNorm2d norm1;
    nn::Conv2d conv2;
    nn::LayerNorm2d norm2;
  };
  Neck neck_;
};

}  // namespace divergen::models
