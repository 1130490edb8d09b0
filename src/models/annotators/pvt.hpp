#pragma once
// Pyramid Vision Transformer v2 (Wang et al. 2022), size b2, as SelfReformer carries it (model/PVT_V2.py): keys and
// values are taken from a shrunken map, and the MLP holds a convolution, so that no positions are needed.

#include <array>

#include "models/annotators/layers.hpp"

namespace divergen::models {

struct PvtStageSizes {
  std::int64_t width = 0, heads = 1, mlp_ratio = 1, depth = 0;
  std::int64_t shrink = 1;  // of the map that keys and values are taken from
};

using PvtSizes = std::array<PvtStageSizes, 4>;
inline constexpr PvtSizes kPvtV2B2{{{64, 1, 8, 3, 8}, {128, 2, 8, 4, 4}, {320, 5, 4, 6, 2}, {512, 8, 4, 3, 1}}};

struct PvtBlock : nn::Module {
  explicit PvtBlock(const PvtStageSizes& sizes);
  /// [B, height · width, C] -> the same.
  at::Tensor forward(const at::Tensor& x, std::int64_t height, std::int64_t width) const;

 private:
  at::Tensor attend(const at::Tensor& x, std::int64_t height, std::int64_t width) const;

  std::int64_t heads_;
  nn::LayerNorm norm1_;
  nn::Linear q_, kv_, proj_;
  std::unique_ptr<nn::Conv2d> sr_;  // shrinks the map; the last stage has none
  std::unique_ptr<nn::LayerNorm> sr_norm_;
  nn::LayerNorm norm2_;
  nn::Linear fc1_;
  nn::Conv2d dwconv_;
  nn::Linear fc2_;
};

struct PyramidVisionTransformer : nn::Module {
  explicit PyramidVisionTransformer(const PvtSizes& sizes);
  /// [B, 3, S, S] -> tokens of the levels S/4, S/8, S/16, S/32: [B, L, C].
  std::array<at::Tensor, 4> forward(const at::Tensor& pictures) const;

 private:
  struct Stage {
    nn::Conv2d* proj;
    nn::LayerNorm* embed_norm;
    nn::List<PvtBlock>* blocks;
    nn::LayerNorm* norm;
  };
  std::array<Stage, 4> stages_;
};

}  // namespace divergen::models
