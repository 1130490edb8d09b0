#pragma once
// SAM's prompt encoder and mask decoder. Arithmetic and key names: segment-anything 1.0; reference/generation.md §3.
// Shapes: B prompts sets (one picture each), T tokens, D features, G side of the embedding's grid.

#include "models/sam/config.hpp"
#include "nn/layers.hpp"

namespace divergen::models {

struct SamPositions : nn::Module {
  explicit SamPositions(std::int64_t dim);
  /// coordinates in 0..1, last dimension (x, y) -> [..., dim].
  at::Tensor encode(const at::Tensor& coordinates) const;
  at::Tensor grid(std::int64_t side) const;        // [1, dim, side, side]
  at::Tensor positional_encoding_gaussian_matrix;  // [2, dim/2] buffer
};

struct SamPromptEncoder : nn::Module {
  explicit SamPromptEncoder(const SamConfig& config);
  /// points [B, P, 2] in pixels of the model's input, labels [B, P] (1 object, 0 background). A padding point is
  /// appended, as the reference does when there is no box. -> [B, P+1, dim].
  at::Tensor points(const at::Tensor& points, const at::Tensor& labels) const;
  /// The embedding of "no mask given": [1, dim, 1, 1], to be broadcast over the grid.
  at::Tensor no_mask() const;

  std::int64_t img_size;
  SamPositions pe_layer;
  nn::List<nn::Embedding> point_embeddings;
  nn::Embedding not_a_point_embed;
  nn::Embedding no_mask_embed;

 private:
  struct MaskDownscaling : nn::Module {
    explicit MaskDownscaling(const SamConfig& config);
    nn::Conv2d conv0;
    nn::LayerNorm2d norm1;
    nn::Conv2d conv3;
    nn::LayerNorm2d norm4;
    nn::Conv2d conv6;
  };
  MaskDownscaling mask_downscaling_;
};

struct SamDecoderAttention : nn::Module {
  SamDecoderAttention(std::int64_t dim, std::int64_t heads, std::int64_t shrink);
  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const;
  std::int64_t heads;
  nn::Linear q_proj, k_proj, v_proj, out_proj;
};

struct SamDecoderMlp : nn::Module {
  SamDecoderMlp(std::int64_t dim, std::int64_t inner);
  at::Tensor forward(const at::Tensor& x) const;
  nn::Linear lin1, lin2;
};

struct SamTwoWayBlock : nn::Module {
  SamTwoWayBlock(const SamConfig& config, bool is_first);
  void forward(at::Tensor& queries, at::Tensor& keys, const at::Tensor& query_pe, const at::Tensor& key_pe) const;
  bool is_first;
  SamDecoderAttention self_attn;
  nn::LayerNorm norm1;
  SamDecoderAttention cross_attn_token_to_image;
  nn::LayerNorm norm2;
  SamDecoderMlp mlp;
  nn::LayerNorm norm3, norm4;
  SamDecoderAttention cross_attn_image_to_token;
};

struct SamTwoWayTransformer : nn::Module {
  explicit SamTwoWayTransformer(const SamConfig& config);
  nn::List<SamTwoWayBlock> layers;
  SamDecoderAttention final_attn_token_to_image;
  nn::LayerNorm norm_final_attn;
};

/// layers.0 … layers.n-1 with ReLU between.
struct SamMlpHead : nn::Module {
  SamMlpHead(std::int64_t in, std::int64_t hidden, std::int64_t out, std::int64_t depth);
  at::Tensor forward(at::Tensor x) const;
  nn::List<nn::Linear> layers;
};

struct SamMaskDecoder : nn::Module {
  explicit SamMaskDecoder(const SamConfig& config);
  struct Output {
    at::Tensor masks;  // [B, 4, 4G, 4G] logits: 0 the single mask, 1..3 the three alternatives
    at::Tensor iou;    // [B, 4]
  };
  /// image [B, dim, G, G], image_pe [1, dim, G, G], sparse [B, T, dim], dense broadcastable to image.
  Output forward(const at::Tensor& image, const at::Tensor& image_pe, const at::Tensor& sparse,
                 const at::Tensor& dense) const;

  SamTwoWayTransformer transformer;
  nn::Embedding iou_token, mask_tokens;
  nn::List<SamMlpHead> output_hypernetworks_mlps;
  SamMlpHead iou_prediction_head;

 private:
  struct Upscaling : nn::Module {
    explicit Upscaling(std::int64_t dim);
    nn::ConvTranspose2d conv0;
    nn::LayerNorm2d norm1;
    nn::ConvTranspose2d conv3;
  };
  Upscaling output_upscaling_;
};

}  // namespace divergen::models
