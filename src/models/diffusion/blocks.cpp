#include "models/diffusion/blocks.hpp"

#include <cmath>

namespace divergen::models {

at::Tensor activate(Act act, const at::Tensor& x) { return act == Act::Silu ? at::silu(x) : at::gelu(x); }

ResnetBlock::ResnetBlock(std::int64_t in, std::int64_t out, const ResnetOptions& o)
    : options(o),
      norm1(o.groups, in, o.eps),
      conv1(in, out, {.kernel = 3, .padding = 1}),
      norm2(o.groups, out, o.eps),
      conv2(out, out, {.kernel = 3, .padding = 1}) {
  child("norm1", norm1);
  child("conv1", conv1);
  if (o.time_features > 0)
    child("time_emb_proj", time_emb_proj.emplace(o.time_features, o.scale_shift ? 2 * out : out));
  child("norm2", norm2);
  child("conv2", conv2);
  if (in != out) child("conv_shortcut", conv_shortcut.emplace(in, out, nn::ConvOptions{.kernel = 1}));
}

at::Tensor ResnetBlock::resized(const at::Tensor& x, std::optional<at::IntArrayRef> size) const {
  if (options.resize == Resize::None) return x;
  if (options.resize == Resize::Down) return at::avg_pool2d(x, {2, 2}, {2, 2});
  return at::upsample_nearest2d(x, size ? size->vec() : std::vector<std::int64_t>{2 * x.size(2), 2 * x.size(3)});
}

at::Tensor ResnetBlock::forward(const at::Tensor& x, const at::Tensor& time,
                                std::optional<at::IntArrayRef> size) const {
  at::Tensor h = conv1.forward(resized(activate(options.act, norm1.forward(x)), size));
  at::Tensor embedded;
  if (time_emb_proj)
    embedded =
        time_emb_proj->forward(options.skip_time_act ? time : activate(options.act, time)).unsqueeze(-1).unsqueeze(-1);
  if (embedded.defined() && options.scale_shift) {
    const auto halves = embedded.chunk(2, 1);  // scale, then shift
    h = norm2.forward(h) * (1 + halves[0]) + halves[1];
  } else {
    h = norm2.forward(embedded.defined() ? h + embedded : h);
  }
  h = conv2.forward(activate(options.act, h));
  const at::Tensor shortcut = resized(x, size);
  const at::Tensor sum = (conv_shortcut ? conv_shortcut->forward(shortcut) : shortcut) + h;
  return options.output_scale == 1 ? sum : sum / options.output_scale;
}

Downsample::Downsample(std::int64_t channels, std::int64_t padding)
    : conv(channels, channels, {.kernel = 3, .stride = 2, .padding = padding}) {
  child("conv", conv);
}
at::Tensor Downsample::forward(const at::Tensor& x) const {
  return conv.forward(conv.options.padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}, 0) : x);
}

Upsample::Upsample(std::int64_t channels) : conv(channels, channels, {.kernel = 3, .padding = 1}) {
  child("conv", conv);
}
at::Tensor Upsample::forward(const at::Tensor& x, std::optional<at::IntArrayRef> size) const {
  const std::vector<std::int64_t> target = size ? size->vec() : std::vector<std::int64_t>{2 * x.size(2), 2 * x.size(3)};
  return conv.forward(at::upsample_nearest2d(x, target));
}

SpatialSelfAttention::SpatialSelfAttention(std::int64_t channels, std::int64_t groups, double eps)
    : group_norm(groups, channels, eps), to_q(channels, channels), to_k(channels, channels), to_v(channels, channels) {
  child("group_norm", group_norm);
  child("to_q", to_q);
  child("to_k", to_k);
  child("to_v", to_v);
  child("to_out", to_out);
  to_out.add(channels, channels);
}

at::Tensor SpatialSelfAttention::forward(const at::Tensor& x) const {
  const auto batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const at::Tensor tokens = group_norm.forward(x).view({batch, channels, height * width}).transpose(1, 2);
  const auto one_head = [](const at::Tensor& t) { return t.unsqueeze(1); };
  const at::Tensor y = at::scaled_dot_product_attention(one_head(to_q.forward(tokens)), one_head(to_k.forward(tokens)),
                                                        one_head(to_v.forward(tokens)));
  return to_out[0].forward(y.squeeze(1)).transpose(1, 2).reshape({batch, channels, height, width}) + x;
}

at::Tensor timestep_embedding(const at::Tensor& steps, std::int64_t features) {
  const std::int64_t half = features / 2;
  // 10000: the period of the original transformer, as in diffusers' get_timestep_embedding.
  const at::Tensor exponent =
      -std::log(10000.0) * at::arange(half, steps.options().dtype(at::kFloat)) / static_cast<double>(half);
  const at::Tensor angles = steps.to(at::kFloat).unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  return at::cat({at::cos(angles), at::sin(angles)}, -1);
}

}  // namespace divergen::models
