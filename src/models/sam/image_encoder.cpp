#include "models/sam/image_encoder.hpp"

#include <cmath>

namespace divergen::models {
namespace {

constexpr double kEps = 1e-6;

/// Rows of the table for every pair of query and key positions: [q, k, features]. The table is resized linearly where a
/// model is run at another size than it was made for.
at::Tensor relative_rows(std::int64_t queries, std::int64_t keys, const at::Tensor& table) {
  const std::int64_t length = 2 * std::max(queries, keys) - 1;
  at::Tensor rows = table;
  if (table.size(0) != length)
    rows = at::upsample_linear1d(table.unsqueeze(0).transpose(1, 2), {length}, false).squeeze(0).transpose(0, 1);
  const double q_scale = std::max(static_cast<double>(keys) / static_cast<double>(queries), 1.0);
  const double k_scale = std::max(static_cast<double>(queries) / static_cast<double>(keys), 1.0);
  const auto options = at::TensorOptions().dtype(at::kFloat).device(table.device());
  const at::Tensor q = at::arange(queries, options).unsqueeze(1) * q_scale;
  const at::Tensor k = at::arange(keys, options).unsqueeze(0) * k_scale;
  const at::Tensor index = ((q - k) + static_cast<double>(keys - 1) * k_scale).to(at::kLong);
  return rows.index_select(0, index.flatten()).reshape({queries, keys, rows.size(1)});
}

/// [B, H, W, C] -> [B·windows, w, w, C], padded right and below with zeros to whole windows.
at::Tensor cut_windows(const at::Tensor& x, std::int64_t w, std::int64_t& rows, std::int64_t& columns) {
  const auto batch = x.size(0), height = x.size(1), width = x.size(2), channels = x.size(3);
  const auto pad_h = (w - height % w) % w, pad_w = (w - width % w) % w;
  const at::Tensor padded = pad_h + pad_w > 0 ? at::constant_pad_nd(x, {0, 0, 0, pad_w, 0, pad_h}) : x;
  rows = (height + pad_h) / w;
  columns = (width + pad_w) / w;
  return padded.reshape({batch, rows, w, columns, w, channels})
      .permute({0, 1, 3, 2, 4, 5})
      .reshape({-1, w, w, channels});
}

at::Tensor join_windows(const at::Tensor& windows, std::int64_t w, std::int64_t rows, std::int64_t columns,
                        std::int64_t height, std::int64_t width) {
  const auto channels = windows.size(3), batch = windows.size(0) / (rows * columns);
  const at::Tensor x = windows.reshape({batch, rows, columns, w, w, channels})
                           .permute({0, 1, 3, 2, 4, 5})
                           .reshape({batch, rows * w, columns * w, channels});
  return x.narrow(1, 0, height).narrow(2, 0, width);
}

}  // namespace

SamConfig SamConfig::from(const ModelConfig& config) {
  SamConfig c;
  c.img_size = config.get("img_size", c.img_size);
  c.patch = config.get("patch", c.patch);
  c.embed = config.get<std::int64_t>("embed");
  c.depth = config.get<std::int64_t>("depth");
  c.heads = config.get<std::int64_t>("heads");
  c.window = config.get("window", c.window);
  c.glob = config.get<std::vector<std::int64_t>>("glob");
  c.mlp_ratio = config.get("mlp_ratio", c.mlp_ratio);
  c.dim = config.get("dim", c.dim);
  c.decoder_depth = config.get("decoder_depth", c.decoder_depth);
  c.decoder_heads = config.get("decoder_heads", c.decoder_heads);
  c.decoder_mlp = config.get("decoder_mlp", c.decoder_mlp);
  c.iou_head_depth = config.get("iou_head_depth", c.iou_head_depth);
  c.iou_head_hidden = config.get("iou_head_hidden", c.iou_head_hidden);
  c.mask_in_chans = config.get("mask_in_chans", c.mask_in_chans);
  if (c.patch < 1 || c.img_size % c.patch != 0) config.refuse("patch", "it does not divide img_size");
  if (c.heads < 1 || c.embed % c.heads != 0) config.refuse("heads", "it does not divide embed");
  return c;
}

nlohmann::json SamConfig::to_json() const {
  return {{"img_size", img_size},
          {"patch", patch},
          {"embed", embed},
          {"depth", depth},
          {"heads", heads},
          {"window", window},
          {"glob", glob},
          {"mlp_ratio", mlp_ratio},
          {"dim", dim},
          {"decoder_depth", decoder_depth},
          {"decoder_heads", decoder_heads},
          {"decoder_mlp", decoder_mlp},
          {"iou_head_depth", iou_head_depth},
          {"iou_head_hidden", iou_head_hidden},
          {"mask_in_chans", mask_in_chans}};
}

SamConfig SamConfig::published(const std::string& name) {
  SamConfig c;
  if (name == "vit_b") return c;
  if (name == "vit_l") {
    c.embed = 1024, c.depth = 24, c.heads = 16, c.glob = {5, 11, 17, 23};
    return c;
  }
  if (name == "vit_h") {
    c.embed = 1280, c.depth = 32, c.heads = 16, c.glob = {7, 15, 23, 31};
    return c;
  }
  fail(ErrorKind::Config,
       {"there is no such SAM", name, "", "use vit_b, vit_l or vit_h, or put a config.json beside the weights"});
}

SamAttention::SamAttention(const SamConfig& c, std::int64_t side)
    : heads(c.heads), qkv(c.embed, 3 * c.embed), proj(c.embed, c.embed) {
  parameter("rel_pos_h", rel_pos_h, {2 * side - 1, c.embed / c.heads});
  parameter("rel_pos_w", rel_pos_w, {2 * side - 1, c.embed / c.heads});
  child("qkv", qkv);
  child("proj", proj);
}

at::Tensor SamAttention::forward(const at::Tensor& x) const {
  const auto batch = x.size(0), height = x.size(1), width = x.size(2), channels = x.size(3),
             features = channels / heads;
  const auto parts = qkv.forward(x)
                         .reshape({batch, height * width, 3, heads, features})
                         .permute({2, 0, 3, 1, 4})
                         .unbind(0);  // each [B, heads, HW, features]
  const at::Tensor& q = parts[0];
  const at::Tensor q_grid = q.reshape({batch * heads, height, width, features});
  // Relative positions see the unscaled queries.
  const at::Tensor by_row = at::einsum("bhwc,hkc->bhwk", {q_grid, relative_rows(height, height, rel_pos_h)});
  const at::Tensor by_column = at::einsum("bhwc,wkc->bhwk", {q_grid, relative_rows(width, width, rel_pos_w)});
  const at::Tensor bias =
      (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).reshape({batch, heads, height * width, height * width});
  const at::Tensor y = at::scaled_dot_product_attention(q, parts[1], parts[2], bias);
  return proj.forward(y.transpose(1, 2).reshape({batch, height, width, channels}));
}

SamMlp::SamMlp(std::int64_t width, std::int64_t inner) : lin1(width, inner), lin2(inner, width) {
  child("lin1", lin1);
  child("lin2", lin2);
}

SamBlock::SamBlock(const SamConfig& c, bool is_global)
    : window(is_global ? 0 : c.window),
      norm1(c.embed, kEps),
      attn(c, is_global ? c.grid() : c.window),
      norm2(c.embed, kEps),
      mlp(c.embed, static_cast<std::int64_t>(static_cast<double>(c.embed) * c.mlp_ratio)) {
  child("norm1", norm1);
  child("attn", attn);
  child("norm2", norm2);
  child("mlp", mlp);
}

at::Tensor SamBlock::forward(const at::Tensor& x) const {
  at::Tensor y = norm1.forward(x);
  if (window > 0) {
    std::int64_t rows = 0, columns = 0;
    const at::Tensor windows = cut_windows(y, window, rows, columns);
    y = join_windows(attn.forward(windows), window, rows, columns, x.size(1), x.size(2));
  } else {
    y = attn.forward(y);
  }
  y = x + y;
  return y + mlp.lin2.forward(at::gelu(mlp.lin1.forward(norm2.forward(y))));
}

SamPatchEmbed::SamPatchEmbed(const SamConfig& c) : proj(3, c.embed, {.kernel = c.patch, .stride = c.patch}) {
  child("proj", proj);
}

SamImageEncoder::Neck::Neck(const SamConfig& c)
    : conv1(c.embed, c.dim, {.kernel = 1, .bias = false}),
      norm1(c.dim),
      conv2(c.dim, c.dim, {.kernel = 3, .padding = 1, .bias = false}),
      norm2(c.dim) {
  child("0", conv1);
  child("1", norm1);
  child("2", conv2);
  child("3", norm2);
}

SamImageEncoder::SamImageEncoder(const SamConfig& c) : patch_embed(c), neck_(c) {
  parameter("pos_embed", pos_embed, {1, c.grid(), c.grid(), c.embed});
  child("patch_embed", patch_embed);
  child("blocks", blocks);
  for (std::int64_t i = 0; i < c.depth; ++i) blocks.add(c, std::find(c.glob.begin(), c.glob.end(), i) != c.glob.end());
  child("neck", neck_);
}

at::Tensor SamImageEncoder::forward(const at::Tensor& images) const {
  at::Tensor x = patch_embed.proj.forward(images).permute({0, 2, 3, 1}) + pos_embed;
  for (const SamBlock* block : blocks) x = block->forward(x);
  x = neck_.norm1.forward(neck_.conv1.forward(x.permute({0, 3, 1, 2})));
  return neck_.norm2.forward(neck_.conv2.forward(x));
}

}  // namespace divergen::models
