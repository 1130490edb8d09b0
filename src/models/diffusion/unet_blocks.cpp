#include "models/diffusion/unet_blocks.hpp"

#include <ATen/ATen.h>

#include <cmath>

namespace divergen::models {
namespace {

constexpr double kTransformerNormEps = 1e-6;  // reference/generation.md §2: not norm_eps
constexpr double kAttentionNormEps = 1e-5;    // diffusers' Attention: not norm_eps either
constexpr std::int64_t kTextGroups = 32;      // fixed in diffusers' Attention

}  // namespace

CrossAttention::CrossAttention(std::int64_t query_dim, std::int64_t context_dim, std::int64_t heads_)
    : heads(heads_),
      to_q(query_dim, query_dim, false),
      to_k(context_dim, query_dim, false),
      to_v(context_dim, query_dim, false) {
  child("to_q", to_q);
  child("to_k", to_k);
  child("to_v", to_v);
  child("to_out", to_out).add(query_dim, query_dim);
}
at::Tensor CrossAttention::forward(const at::Tensor& x, const at::Tensor& context) const {
  const auto batch = x.size(0), width = x.size(2);
  const auto split = [&](const at::Tensor& t) {
    return t.view({batch, t.size(1), heads, width / heads}).transpose(1, 2);
  };
  const at::Tensor y = at::scaled_dot_product_attention(split(to_q.forward(x)), split(to_k.forward(context)),
                                                        split(to_v.forward(context)));
  return to_out[0].forward(y.transpose(1, 2).reshape({batch, x.size(1), width}));
}

at::Tensor Geglu::forward(const at::Tensor& x) const {
  const auto halves = proj.forward(x).chunk(2, -1);
  return halves[0] * at::gelu(halves[1]);
}

FeedForward::FeedForward(std::int64_t dim) : net_(dim) { child("net", net_); }
at::Tensor FeedForward::forward(const at::Tensor& x) const { return net_.output.forward(net_.gate.forward(x)); }

TransformerBlock::TransformerBlock(std::int64_t dim, std::int64_t context_dim, std::int64_t heads)
    : norm1(dim), attn1(dim, dim, heads), norm2(dim), attn2(dim, context_dim, heads), norm3(dim), ff(dim) {
  child("norm1", norm1);
  child("attn1", attn1);
  child("norm2", norm2);
  child("attn2", attn2);
  child("norm3", norm3);
  child("ff", ff);
}
at::Tensor TransformerBlock::forward(const at::Tensor& x, const at::Tensor& context) const {
  const at::Tensor self = norm1.forward(x);
  at::Tensor y = attn1.forward(self, self) + x;
  y = attn2.forward(norm2.forward(y), context) + y;
  return ff.forward(norm3.forward(y)) + y;
}

SpatialTransformer::SpatialTransformer(std::int64_t channels, std::int64_t context_dim, std::int64_t heads,
                                       std::int64_t groups)
    : norm(groups, channels, kTransformerNormEps),
      proj_in(channels, channels, {.kernel = 1}),
      proj_out(channels, channels, {.kernel = 1}) {
  child("norm", norm);
  child("proj_in", proj_in);
  child("transformer_blocks", transformer_blocks).add(channels, context_dim, heads);
  child("proj_out", proj_out);
}
at::Tensor SpatialTransformer::forward(const at::Tensor& x, const at::Tensor& context) const {
  const auto batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  at::Tensor tokens = proj_in.forward(norm.forward(x)).permute({0, 2, 3, 1}).reshape({batch, height * width, channels});
  for (const TransformerBlock* block : transformer_blocks) tokens = block->forward(tokens, context);
  return proj_out.forward(tokens.view({batch, height, width, channels}).permute({0, 3, 1, 2}).contiguous()) + x;
}

AddedKvAttention::AddedKvAttention(std::int64_t channels, std::int64_t text_dim, std::int64_t head_dim_,
                                   std::int64_t groups, bool normalizes_text)
    : head_dim(head_dim_),
      group_norm(groups, channels, kAttentionNormEps),
      to_q(channels, channels),
      to_k(channels, channels),
      to_v(channels, channels),
      add_k_proj(text_dim, channels),
      add_v_proj(text_dim, channels) {
  child("group_norm", group_norm);
  if (normalizes_text) child("norm_cross", norm_cross.emplace(kTextGroups, text_dim, kAttentionNormEps));
  child("to_q", to_q);
  child("to_k", to_k);
  child("to_v", to_v);
  child("add_k_proj", add_k_proj);
  child("add_v_proj", add_v_proj);
  child("to_out", to_out).add(channels, channels);
}
at::Tensor AddedKvAttention::forward(const at::Tensor& x, const at::Tensor& text) const {
  const auto batch = x.size(0), channels = x.size(1);
  const at::Tensor normed_text = norm_cross ? norm_cross->forward(text.transpose(1, 2)).transpose(1, 2) : text;
  const at::Tensor tokens = group_norm.forward(x).flatten(2).transpose(1, 2);
  const auto split = [&](const at::Tensor& t) {
    return t.view({batch, t.size(1), channels / head_dim, head_dim}).transpose(1, 2);
  };
  const at::Tensor keys = at::cat({add_k_proj.forward(normed_text), to_k.forward(tokens)}, 1);
  const at::Tensor values = at::cat({add_v_proj.forward(normed_text), to_v.forward(tokens)}, 1);
  const at::Tensor y = at::scaled_dot_product_attention(split(to_q.forward(tokens)), split(keys), split(values));
  return to_out[0].forward(y.transpose(1, 2).reshape({batch, -1, channels})).transpose(1, 2).reshape(x.sizes()) + x;
}

TimeEmbedding::TimeEmbedding(std::int64_t in, std::int64_t out, Act act_)
    : act(act_), linear_1(in, out), linear_2(out, out) {
  child("linear_1", linear_1);
  child("linear_2", linear_2);
}
at::Tensor TimeEmbedding::forward(const at::Tensor& x) const {
  return linear_2.forward(activate(act, linear_1.forward(x)));
}

AttentionPooling::AttentionPooling(std::int64_t heads_, std::int64_t features)
    : heads(heads_), k_proj(features, features), q_proj(features, features), v_proj(features, features) {
  parameter("positional_embedding", positional_embedding, {1, features});
  child("k_proj", k_proj);
  child("q_proj", q_proj);
  child("v_proj", v_proj);
}
at::Tensor AttentionPooling::forward(const at::Tensor& x) const {
  const auto batch = x.size(0), features = x.size(2), width = features / heads;
  const at::Tensor query = x.mean(1, /*keepdim=*/true) + positional_embedding;
  const at::Tensor all = at::cat({query, x}, 1);
  const auto split = [&](const at::Tensor& t) {
    return t.view({batch, t.size(1), heads, width}).transpose(1, 2).reshape({batch * heads, t.size(1), width});
  };
  // Queries and keys are each scaled by width^-1/4, so that float16 products stay in range.
  const double scale = 1 / std::sqrt(std::sqrt(static_cast<double>(width)));
  const at::Tensor scores =
      at::bmm(split(q_proj.forward(query)) * scale, (split(k_proj.forward(all)) * scale).transpose(1, 2));
  const at::Tensor weights = at::softmax(scores.to(at::kFloat), -1).to(scores.scalar_type());
  return at::bmm(weights, split(v_proj.forward(all))).view({batch, features});
}

TextTimeEmbedding::TextTimeEmbedding(std::int64_t text_features, std::int64_t time_features, std::int64_t heads)
    : norm1(text_features), pool(heads, text_features), proj(text_features, time_features), norm2(time_features) {
  child("norm1", norm1);
  child("pool", pool);
  child("proj", proj);
  child("norm2", norm2);
}
at::Tensor TextTimeEmbedding::forward(const at::Tensor& states) const {
  return norm2.forward(proj.forward(pool.forward(norm1.forward(states))));
}

void UnetAttentions::add(const UnetConfig& c, UnetBlock block, std::int64_t channels) {
  if (block == UnetBlock::CrossAttention)
    transformers.add(channels, c.cross_attention_dim, c.attention_head_dim, c.norm_groups);
  if (block == UnetBlock::SimpleCrossAttention)
    simple.add(channels, c.cross_attention_dim, c.attention_head_dim, c.norm_groups, c.cross_attention_group_norm);
}
at::Tensor UnetAttentions::forward(std::size_t i, const at::Tensor& x, const at::Tensor& context) const {
  if (!transformers.empty()) return transformers[i].forward(x, context);
  return simple.empty() ? x : simple[i].forward(x, context);
}

UnetDownBlock::UnetDownBlock(const UnetConfig& c, std::size_t level) {
  const auto in = c.block_out_channels[level == 0 ? 0 : level - 1], out = c.block_out_channels[level];
  const UnetBlock block = c.down_blocks[level];
  ResnetOptions options = c.resnet(block);
  for (std::int64_t i = 0; i < c.layers_per_block[level]; ++i) {
    resnets.add(i == 0 ? in : out, out, options);
    attentions.add(c, block, out);
  }
  child("attentions", attentions.module());
  child("resnets", resnets);
  if (level + 1 == c.levels()) return;
  options.resize = Resize::Down;
  if (block == UnetBlock::Plain || block == UnetBlock::CrossAttention) child("downsamplers", downsamplers).add(out, 1);
  else child("downsamplers", resnet_downsamplers).add(out, out, options);
}
at::Tensor UnetDownBlock::forward(at::Tensor x, const at::Tensor& time, const at::Tensor& context,
                                  std::vector<at::Tensor>& skips) const {
  for (std::size_t i = 0; i < resnets.size(); ++i) {
    x = attentions.forward(i, resnets[i].forward(x, time), context);
    skips.push_back(x);
  }
  for (const Downsample* downsample : downsamplers) skips.push_back(x = downsample->forward(x));
  for (const ResnetBlock* downsample : resnet_downsamplers) skips.push_back(x = downsample->forward(x, time));
  return x;
}

UnetMidBlock::UnetMidBlock(const UnetConfig& c) {
  const auto channels = c.block_out_channels.back();
  attentions.add(c, c.mid_block, channels);
  child("attentions", attentions.module());
  child("resnets", resnets);
  for (int i = 0; i < 2; ++i) resnets.add(channels, channels, c.resnet(c.mid_block, /*is_mid=*/true));
}
at::Tensor UnetMidBlock::forward(const at::Tensor& x, const at::Tensor& time, const at::Tensor& context) const {
  return resnets[1].forward(attentions.forward(0, resnets[0].forward(x, time), context), time);
}

UnetUpBlock::UnetUpBlock(const UnetConfig& c, std::size_t position) {
  const std::size_t levels = c.levels();
  const auto width = [&](std::size_t p) { return c.block_out_channels[levels - 1 - std::min(p, levels - 1)]; };
  const auto out = width(position), before = width(position == 0 ? 0 : position - 1), below = width(position + 1);
  const UnetBlock block = c.up_blocks[position];
  const auto layers = c.layers_per_block[levels - 1 - position] + 1;
  ResnetOptions options = c.resnet(block);
  for (std::int64_t i = 0; i < layers; ++i) {
    const auto skip = i + 1 == layers ? below : out;
    resnets.add((i == 0 ? before : out) + skip, out, options);
    attentions.add(c, block, out);
  }
  child("attentions", attentions.module());
  child("resnets", resnets);
  if (position + 1 == levels) return;
  options.resize = Resize::Up;
  if (block == UnetBlock::Plain || block == UnetBlock::CrossAttention) child("upsamplers", upsamplers).add(out);
  else child("upsamplers", resnet_upsamplers).add(out, out, options);
}
at::Tensor UnetUpBlock::forward(at::Tensor x, const at::Tensor& time, const at::Tensor& context,
                                std::vector<at::Tensor>& skips) const {
  for (std::size_t i = 0; i < resnets.size(); ++i) {
    x = resnets[i].forward(at::cat({x, skips.back()}, 1), time);
    skips.pop_back();
    x = attentions.forward(i, x, context);
  }
  // The size of the next skip, not twice our own: they differ where a size is not a multiple of the downsampling.
  for (const Upsample* upsample : upsamplers) x = upsample->forward(x, skips.back().sizes().slice(2));
  for (const ResnetBlock* upsample : resnet_upsamplers) x = upsample->forward(x, time, skips.back().sizes().slice(2));
  return x;
}

}  // namespace divergen::models
