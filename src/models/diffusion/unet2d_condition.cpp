#include "models/diffusion/unet2d_condition.hpp"

#include "nn/tensor_io.hpp"

namespace divergen::models {
namespace {

constexpr double kTransformerNormEps = 1e-6;  // reference/generation.md §2: not norm_eps

std::vector<bool> attention_flags(const ModelConfig& config, const std::string& key, const std::string& with,
                                  const std::string& without) {
  std::vector<bool> flags;
  for (const auto& type : config.get<std::vector<std::string>>(key)) {
    if (type != with && type != without) config.refuse(key, cat("'", type, "' is neither ", with, " nor ", without));
    flags.push_back(type == with);
  }
  return flags;
}

}  // namespace

UnetConfig UnetConfig::from(const ModelConfig& config) {
  UnetConfig c;
  c.sample_size = config.get("sample_size", c.sample_size);
  c.in_channels = config.get("in_channels", c.in_channels);
  c.out_channels = config.get("out_channels", c.out_channels);
  c.block_out_channels = config.get<std::vector<std::int64_t>>("block_out_channels");
  c.down_attention = attention_flags(config, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D");
  c.up_attention = attention_flags(config, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D");
  c.layers_per_block = config.get("layers_per_block", c.layers_per_block);
  c.norm_groups = config.get("norm_num_groups", c.norm_groups);
  c.norm_eps = config.get("norm_eps", c.norm_eps);
  c.cross_attention_dim = config.get("cross_attention_dim", c.cross_attention_dim);
  c.heads = config.get("attention_head_dim", c.heads);
  config.require<std::string>("act_fn", "silu");
  config.require("center_input_sample", false);
  config.require("flip_sin_to_cos", true);
  config.require("freq_shift", 0);
  config.require("downsample_padding", 1);
  config.require("mid_block_scale_factor", 1.0);
  config.require("use_linear_projection", false);
  const std::size_t levels = c.block_out_channels.size();
  if (levels == 0 || c.down_attention.size() != levels || c.up_attention.size() != levels)
    config.refuse("block_out_channels", "its length differs from that of the block types");
  for (const auto channels : c.block_out_channels)
    if (channels % c.norm_groups != 0 || channels % c.heads != 0)
      config.refuse("block_out_channels", "norm_num_groups and attention_head_dim must divide each of them");
  return c;
}

nlohmann::json UnetConfig::to_json() const {
  std::vector<std::string> down, up;
  for (const bool attention : down_attention) down.push_back(attention ? "CrossAttnDownBlock2D" : "DownBlock2D");
  for (const bool attention : up_attention) up.push_back(attention ? "CrossAttnUpBlock2D" : "UpBlock2D");
  return {{"_class_name", "UNet2DConditionModel"},
          {"act_fn", "silu"},
          {"attention_head_dim", heads},
          {"block_out_channels", block_out_channels},
          {"center_input_sample", false},
          {"cross_attention_dim", cross_attention_dim},
          {"down_block_types", down},
          {"downsample_padding", 1},
          {"flip_sin_to_cos", true},
          {"freq_shift", 0},
          {"in_channels", in_channels},
          {"layers_per_block", layers_per_block},
          {"mid_block_scale_factor", 1},
          {"norm_eps", norm_eps},
          {"norm_num_groups", norm_groups},
          {"out_channels", out_channels},
          {"sample_size", sample_size},
          {"up_block_types", up}};
}

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

TimeEmbedding::TimeEmbedding(std::int64_t in, std::int64_t out) : linear_1(in, out), linear_2(out, out) {
  child("linear_1", linear_1);
  child("linear_2", linear_2);
}
at::Tensor TimeEmbedding::forward(const at::Tensor& x) const { return linear_2.forward(at::silu(linear_1.forward(x))); }

UnetDownBlock::UnetDownBlock(const UnetConfig& c, std::size_t level) {
  const auto in = c.block_out_channels[level == 0 ? 0 : level - 1], out = c.block_out_channels[level];
  const auto time = 4 * c.block_out_channels.front();
  child("attentions", attentions);
  child("resnets", resnets);
  for (std::int64_t i = 0; i < c.layers_per_block; ++i) {
    resnets.add(i == 0 ? in : out, out, time, c.norm_groups, c.norm_eps);
    if (c.down_attention[level]) attentions.add(out, c.cross_attention_dim, c.heads, c.norm_groups);
  }
  child("downsamplers", downsamplers);
  if (level + 1 < c.block_out_channels.size()) downsamplers.add(out, 1);
}
at::Tensor UnetDownBlock::forward(at::Tensor x, const at::Tensor& time, const at::Tensor& context,
                                  std::vector<at::Tensor>& skips) const {
  for (std::size_t i = 0; i < resnets.size(); ++i) {
    x = resnets[i].forward(x, time);
    if (!attentions.empty()) x = attentions[i].forward(x, context);
    skips.push_back(x);
  }
  for (const Downsample* downsample : downsamplers) {
    x = downsample->forward(x);
    skips.push_back(x);
  }
  return x;
}

UnetMidBlock::UnetMidBlock(const UnetConfig& c) {
  const auto channels = c.block_out_channels.back(), time = 4 * c.block_out_channels.front();
  child("attentions", attentions).add(channels, c.cross_attention_dim, c.heads, c.norm_groups);
  child("resnets", resnets);
  for (int i = 0; i < 2; ++i) resnets.add(channels, channels, time, c.norm_groups, c.norm_eps);
}
at::Tensor UnetMidBlock::forward(const at::Tensor& x, const at::Tensor& time, const at::Tensor& context) const {
  return resnets[1].forward(attentions[0].forward(resnets[0].forward(x, time), context), time);
}

UnetUpBlock::UnetUpBlock(const UnetConfig& c, std::size_t position) {
  const std::size_t levels = c.block_out_channels.size();
  const auto width = [&](std::size_t p) { return c.block_out_channels[levels - 1 - std::min(p, levels - 1)]; };
  const auto out = width(position), before = width(position == 0 ? 0 : position - 1), below = width(position + 1);
  const auto time = 4 * c.block_out_channels.front();
  child("attentions", attentions);
  child("resnets", resnets);
  for (std::int64_t i = 0; i <= c.layers_per_block; ++i) {
    const auto skip = i == c.layers_per_block ? below : out;
    resnets.add((i == 0 ? before : out) + skip, out, time, c.norm_groups, c.norm_eps);
    if (c.up_attention[position]) attentions.add(out, c.cross_attention_dim, c.heads, c.norm_groups);
  }
  child("upsamplers", upsamplers);
  if (position + 1 < levels) upsamplers.add(out);
}
at::Tensor UnetUpBlock::forward(at::Tensor x, const at::Tensor& time, const at::Tensor& context,
                                std::vector<at::Tensor>& skips) const {
  for (std::size_t i = 0; i < resnets.size(); ++i) {
    x = resnets[i].forward(at::cat({x, skips.back()}, 1), time);
    skips.pop_back();
    if (!attentions.empty()) x = attentions[i].forward(x, context);
  }
  // The size of the next skip, not twice our own: they differ where a size is not a multiple of the downsampling.
  for (const Upsample* upsample : upsamplers) x = upsample->forward(x, skips.back().sizes().slice(2));
  return x;
}

UNet2DCondition::UNet2DCondition(const UnetConfig& c)
    : config(c),
      conv_in(c.in_channels, c.block_out_channels.front(), {.kernel = 3, .padding = 1}),
      time_embedding(c.block_out_channels.front(), 4 * c.block_out_channels.front()),
      mid_block(c),
      conv_norm_out(c.norm_groups, c.block_out_channels.front(), c.norm_eps),
      conv_out(c.block_out_channels.front(), c.out_channels, {.kernel = 3, .padding = 1}) {
  child("conv_in", conv_in);
  child("time_embedding", time_embedding);
  child("down_blocks", down_blocks);
  child("up_blocks", up_blocks);
  child("mid_block", mid_block);
  child("conv_norm_out", conv_norm_out);
  child("conv_out", conv_out);
  for (std::size_t i = 0; i < c.block_out_channels.size(); ++i) down_blocks.add(c, i);
  for (std::size_t i = 0; i < c.block_out_channels.size(); ++i) up_blocks.add(c, i);
}

at::Tensor UNet2DCondition::forward(const at::Tensor& sample, const at::Tensor& steps,
                                    const at::Tensor& context) const {
  const at::Tensor time =
      time_embedding.forward(timestep_embedding(steps, config.block_out_channels.front()).to(sample.scalar_type()));
  at::Tensor x = conv_in.forward(sample);
  std::vector<at::Tensor> skips{x};
  for (const UnetDownBlock* block : down_blocks) x = block->forward(x, time, context, skips);
  x = mid_block.forward(x, time, context);
  for (const UnetUpBlock* block : up_blocks) x = block->forward(x, time, context, skips);
  return conv_out.forward(at::silu(conv_norm_out.forward(x)));
}

std::unique_ptr<UNet2DCondition> load_unet(const Path& folder) {
  auto model = std::make_unique<UNet2DCondition>(UnetConfig::from(ModelConfig(folder / "config.json")));
  nn::load_module(*model, folder / "diffusion_pytorch_model.safetensors");
  return model;
}

}  // namespace divergen::models
