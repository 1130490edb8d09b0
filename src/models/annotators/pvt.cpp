#include "models/annotators/pvt.hpp"

#include "base/error.hpp"

namespace divergen::models {
namespace {

constexpr double kEps = 1e-6;  // of the norms of blocks and stages; the others have PyTorch's

at::Tensor to_map(const at::Tensor& tokens, std::int64_t height, std::int64_t width) {
  return tokens.transpose(1, 2).reshape({tokens.size(0), tokens.size(2), height, width});
}
at::Tensor to_tokens(const at::Tensor& map) { return map.flatten(2).transpose(1, 2); }

}  // namespace

PvtBlock::PvtBlock(const PvtStageSizes& s)
    : heads_(s.heads),
      norm1_(s.width, kEps),
      q_(s.width, s.width),
      kv_(s.width, 2 * s.width),
      proj_(s.width, s.width),
      norm2_(s.width, kEps),
      fc1_(s.width, s.width * s.mlp_ratio),
      dwconv_(s.width * s.mlp_ratio, s.width * s.mlp_ratio,
              {.kernel = 3, .padding = 1, .groups = s.width * s.mlp_ratio}),
      fc2_(s.width * s.mlp_ratio, s.width) {
  child("norm1", norm1_);
  child("attn.q", q_);
  child("attn.kv", kv_);
  child("attn.proj", proj_);
  if (s.shrink > 1) {
    sr_ = std::make_unique<nn::Conv2d>(s.width, s.width, nn::ConvOptions{.kernel = s.shrink, .stride = s.shrink});
    sr_norm_ = std::make_unique<nn::LayerNorm>(s.width);
    child("attn.sr", *sr_);
    child("attn.norm", *sr_norm_);
  }
  child("norm2", norm2_);
  child("mlp.fc1", fc1_);
  child("mlp.dwconv.dwconv", dwconv_);
  child("mlp.fc2", fc2_);
}

at::Tensor PvtBlock::attend(const at::Tensor& x, std::int64_t height, std::int64_t width) const {
  const auto batch = x.size(0), length = x.size(1), channels = x.size(2), features = channels / heads_;
  const at::Tensor seen = sr_ ? sr_norm_->forward(to_tokens(sr_->forward(to_map(x, height, width)))) : x;
  const at::Tensor q = q_.forward(x).reshape({batch, length, heads_, features}).transpose(1, 2);
  const auto kv = kv_.forward(seen).reshape({batch, -1, 2, heads_, features}).permute({2, 0, 3, 1, 4}).unbind(0);
  const at::Tensor y = at::scaled_dot_product_attention(q, kv[0], kv[1]);
  return proj_.forward(y.transpose(1, 2).reshape({batch, length, channels}));
}

at::Tensor PvtBlock::forward(const at::Tensor& x, std::int64_t height, std::int64_t width) const {
  const at::Tensor y = x + attend(norm1_.forward(x), height, width);
  const at::Tensor inner = dwconv_.forward(to_map(fc1_.forward(norm2_.forward(y)), height, width));
  return y + fc2_.forward(at::gelu(to_tokens(inner)));
}

PyramidVisionTransformer::PyramidVisionTransformer(const PvtSizes& sizes) {
  std::int64_t in = 3;
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const PvtStageSizes& s = sizes[i];
    const nn::ConvOptions options = i == 0 ? nn::ConvOptions{.kernel = 7, .stride = 4, .padding = 3}
                                           : nn::ConvOptions{.kernel = 3, .stride = 2, .padding = 1};
    stages_[i].proj = &make_child<nn::Conv2d>(cat("patch_embed", i + 1, ".proj"), in, s.width, options);
    stages_[i].embed_norm = &make_child<nn::LayerNorm>(cat("patch_embed", i + 1, ".norm"), s.width);
    stages_[i].blocks = &make_child<nn::List<PvtBlock>>(cat("block", i + 1));
    for (std::int64_t n = 0; n < s.depth; ++n) stages_[i].blocks->add(s);
    stages_[i].norm = &make_child<nn::LayerNorm>(cat("norm", i + 1), s.width, kEps);
    in = s.width;
  }
}

std::array<at::Tensor, 4> PyramidVisionTransformer::forward(const at::Tensor& pictures) const {
  std::array<at::Tensor, 4> levels;
  at::Tensor map = pictures;
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    map = stages_[i].proj->forward(map);
    const auto height = map.size(2), width = map.size(3);
    at::Tensor x = stages_[i].embed_norm->forward(to_tokens(map));
    for (const PvtBlock* block : *stages_[i].blocks) x = block->forward(x, height, width);
    levels[i] = stages_[i].norm->forward(x);
    map = to_map(levels[i], height, width);
  }
  return levels;
}

}  // namespace divergen::models
