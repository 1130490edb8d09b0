#include "models/sam/decoder.hpp"

#include <numbers>

namespace divergen::models {
namespace {

constexpr std::int64_t kMasks = 4;  // one single mask and three alternatives
constexpr std::int64_t kCrossAttentionShrink = 2;

}  // namespace

SamPositions::SamPositions(std::int64_t dim) {
  buffer("positional_encoding_gaussian_matrix", positional_encoding_gaussian_matrix, {2, dim / 2});
}
at::Tensor SamPositions::encode(const at::Tensor& coordinates) const {
  const at::Tensor angles = 2 * std::numbers::pi * at::matmul(2 * coordinates - 1, positional_encoding_gaussian_matrix);
  return at::cat({at::sin(angles), at::cos(angles)}, -1);
}
at::Tensor SamPositions::grid(std::int64_t side) const {
  const at::Tensor ones = at::ones({side, side}, positional_encoding_gaussian_matrix.options());
  const at::Tensor y = (ones.cumsum(0) - 0.5) / static_cast<double>(side),
                   x = (ones.cumsum(1) - 0.5) / static_cast<double>(side);
  return encode(at::stack({x, y}, -1)).permute({2, 0, 1}).unsqueeze(0);
}

SamPromptEncoder::MaskDownscaling::MaskDownscaling(const SamConfig& c)
    : conv0(1, c.mask_in_chans / 4, {.kernel = 2, .stride = 2}),
      norm1(c.mask_in_chans / 4),
      conv3(c.mask_in_chans / 4, c.mask_in_chans, {.kernel = 2, .stride = 2}),
      norm4(c.mask_in_chans),
      conv6(c.mask_in_chans, c.dim, {.kernel = 1}) {
  child("0", conv0);
  child("1", norm1);
  child("3", conv3);
  child("4", norm4);
  child("6", conv6);
}

SamPromptEncoder::SamPromptEncoder(const SamConfig& c)
    : img_size(c.img_size),
      pe_layer(c.dim),
      not_a_point_embed(1, c.dim),
      no_mask_embed(1, c.dim),
      mask_downscaling_(c) {
  child("pe_layer", pe_layer);
  child("point_embeddings", point_embeddings);
  for (int i = 0; i < 4; ++i) point_embeddings.add(1, c.dim);
  child("not_a_point_embed", not_a_point_embed);
  child("mask_downscaling", mask_downscaling_);
  child("no_mask_embed", no_mask_embed);
}

at::Tensor SamPromptEncoder::points(const at::Tensor& points, const at::Tensor& labels) const {
  const auto batch = points.size(0);
  const at::Tensor all = at::cat({points + 0.5, at::zeros({batch, 1, 2}, points.options())}, 1);
  const at::Tensor kinds = at::cat({labels, at::full({batch, 1}, -1, labels.options())}, 1).unsqueeze(-1);
  const at::Tensor encoded = pe_layer.encode(
      (all / static_cast<double>(img_size)).to(pe_layer.positional_encoding_gaussian_matrix.scalar_type()));
  const at::Tensor padding = kinds.eq(-1);
  return at::where(padding, not_a_point_embed.weight, encoded) +
         kinds.eq(0).to(encoded.scalar_type()) * point_embeddings[0].weight +
         kinds.eq(1).to(encoded.scalar_type()) * point_embeddings[1].weight;
}

at::Tensor SamPromptEncoder::no_mask() const { return no_mask_embed.weight.reshape({1, -1, 1, 1}); }

SamDecoderAttention::SamDecoderAttention(std::int64_t dim, std::int64_t heads_, std::int64_t shrink)
    : heads(heads_),
      q_proj(dim, dim / shrink),
      k_proj(dim, dim / shrink),
      v_proj(dim, dim / shrink),
      out_proj(dim / shrink, dim) {
  child("q_proj", q_proj);
  child("k_proj", k_proj);
  child("v_proj", v_proj);
  child("out_proj", out_proj);
}
at::Tensor SamDecoderAttention::forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
  const auto batch = q.size(0);
  const auto split = [&](const at::Tensor& t) {
    return t.reshape({batch, t.size(1), heads, t.size(2) / heads}).transpose(1, 2);
  };
  const at::Tensor y =
      at::scaled_dot_product_attention(split(q_proj.forward(q)), split(k_proj.forward(k)), split(v_proj.forward(v)));
  return out_proj.forward(y.transpose(1, 2).reshape({batch, q.size(1), -1}));
}

SamDecoderMlp::SamDecoderMlp(std::int64_t dim, std::int64_t inner) : lin1(dim, inner), lin2(inner, dim) {
  child("lin1", lin1);
  child("lin2", lin2);
}
at::Tensor SamDecoderMlp::forward(const at::Tensor& x) const { return lin2.forward(at::relu(lin1.forward(x))); }

SamTwoWayBlock::SamTwoWayBlock(const SamConfig& c, bool is_first_)
    : is_first(is_first_),
      self_attn(c.dim, c.decoder_heads, 1),
      norm1(c.dim),
      cross_attn_token_to_image(c.dim, c.decoder_heads, kCrossAttentionShrink),
      norm2(c.dim),
      mlp(c.dim, c.decoder_mlp),
      norm3(c.dim),
      norm4(c.dim),
      cross_attn_image_to_token(c.dim, c.decoder_heads, kCrossAttentionShrink) {
  child("self_attn", self_attn);
  child("norm1", norm1);
  child("cross_attn_token_to_image", cross_attn_token_to_image);
  child("norm2", norm2);
  child("mlp", mlp);
  child("norm3", norm3);
  child("norm4", norm4);
  child("cross_attn_image_to_token", cross_attn_image_to_token);
}

void SamTwoWayBlock::forward(at::Tensor& queries, at::Tensor& keys, const at::Tensor& query_pe,
                             const at::Tensor& key_pe) const {
  if (is_first) {
    queries = self_attn.forward(queries, queries, queries);
  } else {
    const at::Tensor q = queries + query_pe;
    queries = queries + self_attn.forward(q, q, queries);
  }
  queries = norm1.forward(queries);
  queries = norm2.forward(queries + cross_attn_token_to_image.forward(queries + query_pe, keys + key_pe, keys));
  queries = norm3.forward(queries + mlp.forward(queries));
  keys = norm4.forward(keys + cross_attn_image_to_token.forward(keys + key_pe, queries + query_pe, queries));
}

SamTwoWayTransformer::SamTwoWayTransformer(const SamConfig& c)
    : final_attn_token_to_image(c.dim, c.decoder_heads, kCrossAttentionShrink), norm_final_attn(c.dim) {
  child("layers", layers);
  for (std::int64_t i = 0; i < c.decoder_depth; ++i) layers.add(c, i == 0);
  child("final_attn_token_to_image", final_attn_token_to_image);
  child("norm_final_attn", norm_final_attn);
}

SamMlpHead::SamMlpHead(std::int64_t in, std::int64_t hidden, std::int64_t out, std::int64_t depth) {
  child("layers", layers);
  for (std::int64_t i = 0; i < depth; ++i) layers.add(i == 0 ? in : hidden, i + 1 == depth ? out : hidden);
}
at::Tensor SamMlpHead::forward(at::Tensor x) const {
  for (std::size_t i = 0; i < layers.size(); ++i)
    x = i + 1 < layers.size() ? at::relu(layers[i].forward(x)) : layers[i].forward(x);
  return x;
}

SamMaskDecoder::Upscaling::Upscaling(std::int64_t dim)
    : conv0(dim, dim / 4, {.kernel = 2, .stride = 2}),
      norm1(dim / 4),
      conv3(dim / 4, dim / 8, {.kernel = 2, .stride = 2}) {
  child("0", conv0);
  child("1", norm1);
  child("3", conv3);
}

SamMaskDecoder::SamMaskDecoder(const SamConfig& c)
    : transformer(c),
      iou_token(1, c.dim),
      mask_tokens(kMasks, c.dim),
      iou_prediction_head(c.dim, c.iou_head_hidden, kMasks, c.iou_head_depth),
      output_upscaling_(c.dim) {
  child("transformer", transformer);
  child("iou_token", iou_token);
  child("mask_tokens", mask_tokens);
  child("output_upscaling", output_upscaling_);
  child("output_hypernetworks_mlps", output_hypernetworks_mlps);
  for (std::int64_t i = 0; i < kMasks; ++i) output_hypernetworks_mlps.add(c.dim, c.dim, c.dim / 8, 3);
  child("iou_prediction_head", iou_prediction_head);
}

SamMaskDecoder::Output SamMaskDecoder::forward(const at::Tensor& image, const at::Tensor& image_pe,
                                               const at::Tensor& sparse, const at::Tensor& dense) const {
  const auto batch = sparse.size(0), dim = image.size(1), side = image.size(2);
  const at::Tensor own = at::cat({iou_token.weight, mask_tokens.weight}).unsqueeze(0).expand({batch, -1, -1});
  const at::Tensor tokens = at::cat({own, sparse}, 1);
  at::Tensor keys = (image + dense).flatten(2).transpose(1, 2);
  const at::Tensor key_pe = image_pe.expand({batch, -1, -1, -1}).flatten(2).transpose(1, 2);
  at::Tensor queries = tokens;
  for (const SamTwoWayBlock* block : transformer.layers) block->forward(queries, keys, tokens, key_pe);
  queries = transformer.norm_final_attn.forward(
      queries + transformer.final_attn_token_to_image.forward(queries + tokens, keys + key_pe, keys));

  at::Tensor up = keys.transpose(1, 2).reshape({batch, dim, side, side});
  up = at::gelu(output_upscaling_.norm1.forward(output_upscaling_.conv0.forward(up)));
  up = at::gelu(output_upscaling_.conv3.forward(up));
  std::vector<at::Tensor> weights;
  for (std::int64_t i = 0; i < kMasks; ++i)
    weights.push_back(output_hypernetworks_mlps[static_cast<std::size_t>(i)].forward(queries.select(1, 1 + i)));
  Output out;
  out.masks = at::matmul(at::stack(weights, 1), up.flatten(2)).reshape({batch, kMasks, up.size(2), up.size(3)});
  out.iou = iou_prediction_head.forward(queries.select(1, 0));
  return out;
}

}  // namespace divergen::models
