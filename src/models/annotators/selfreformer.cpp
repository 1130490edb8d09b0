#include "models/annotators/selfreformer.hpp"

#include <cmath>

#include "base/error.hpp"
#include "nn/tensor_io.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

constexpr std::array<std::int64_t, 4> kSides{7, 14, 28, 56};
constexpr std::array<std::int64_t, 4> kShaped{1024, 256, 64, 16};  // channels of a level as 256 on a map of 14
constexpr std::int64_t kGlobalSide = 14, kGlobalWidth = 256;
constexpr std::int64_t kMlpRatio = 3, kMainDepth = 2, kRefinementDepth = 4;  // option.py, CRM.py
constexpr double kLeak = 0.01, kStable = 1e-8;

at::Tensor to_map(const at::Tensor& tokens, std::int64_t side) {
  return tokens.transpose(1, 2).reshape({tokens.size(0), tokens.size(2), side, side});
}
at::Tensor to_tokens(const at::Tensor& map) { return map.flatten(2).transpose(1, 2); }

}  // namespace

ReformerBlock::ReformerBlock(std::int64_t width)
    : norm1_(width),
      qkv_(width, 3 * width, false),
      proj_(width, width),
      norm2_(width),
      fc1_(width, kMlpRatio * width),
      fc2_(kMlpRatio * width, width) {
  child("norm1", norm1_);
  child("attn.qkv", qkv_);
  child("attn.proj", proj_);
  child("norm2", norm2_);
  child("mlp.fc1", fc1_);
  child("mlp.fc2", fc2_);
}

at::Tensor ReformerBlock::forward(const at::Tensor& x) const {
  const auto parts = qkv_.forward(norm1_.forward(x)).unsqueeze(1).chunk(3, -1);  // one head: [B, 1, L, C] each
  const at::Tensor y = x + proj_.forward(at::scaled_dot_product_attention(parts[0], parts[1], parts[2]).squeeze(1));
  return y + fc2_.forward(at::gelu(fc1_.forward(norm2_.forward(y))));
}

ReformerTransformer::ReformerTransformer(std::int64_t depth, std::int64_t width, std::int64_t tokens) : norm_(width) {
  parameter("pos_embed", pos_embed_, {1, tokens, width});
  child("blocks", blocks_);
  for (std::int64_t i = 0; i < depth; ++i) blocks_.add(width);
  child("norm", norm_);
}

at::Tensor ReformerTransformer::forward(at::Tensor x, bool with_positions) const {
  if (with_positions) x = x + pos_embed_;
  for (const ReformerBlock* block : blocks_) x = block->forward(x);
  return norm_.forward(x);
}

TokenPerformer::TokenPerformer(std::int64_t width)
    : kqv_(width, 3 * width),
      proj_(width, width),
      norm1_(width),
      norm2_(width),
      first_(width, width),
      second_(width, width) {
  parameter("w", w_, {width / 2, width});
  child("kqv", kqv_);
  child("proj", proj_);
  child("norm1", norm1_);
  child("norm2", norm2_);
  child("mlp.0", first_);
  child("mlp.2", second_);
}

at::Tensor TokenPerformer::features(const at::Tensor& x) const {
  const at::Tensor half_square = (x * x).sum(-1, /*keepdim=*/true) / 2;
  return at::exp(at::matmul(x, w_.t()) - half_square) / std::sqrt(static_cast<double>(w_.size(0)));
}

at::Tensor TokenPerformer::forward(const at::Tensor& x) const {
  const auto kqv = kqv_.forward(norm1_.forward(x)).chunk(3, -1);
  const at::Tensor k = features(kqv[0]), q = features(kqv[1]);
  const at::Tensor sum = at::matmul(q, k.sum(1).unsqueeze(2)) + kStable;          // [B, L, 1]
  const at::Tensor mixed = at::matmul(q, at::matmul(k.transpose(1, 2), kqv[2]));  // [B, L, C]
  const at::Tensor y = x + proj_.forward(mixed / sum);
  return y + second_.forward(at::gelu(first_.forward(norm2_.forward(y))));
}

ReformerFuser::ReformerFuser(std::int64_t width, std::int64_t coarse_side, std::int64_t coarse_width)
    : side_(coarse_side), first_(width + coarse_width / 4, width), second_(width, width), att_(width) {
  child("concatFuse.0", first_);
  child("concatFuse.2", second_);
  child("att", att_);
}

at::Tensor ReformerFuser::forward(const at::Tensor& fine, const at::Tensor& coarse) const {
  const at::Tensor shuffled = to_tokens(at::pixel_shuffle(to_map(coarse, side_), 2));
  return att_.forward(second_.forward(at::gelu(first_.forward(at::cat({fine, shuffled}, 2)))));
}

ContextRefinement::ContextRefinement(std::int64_t width, std::int64_t out, std::int64_t side, std::int64_t tokens)
    : side_(side),
      conv_p1_(width, out, {.kernel = 3, .padding = 1}),
      conv_p2_(width, out, {.kernel = 3, .padding = 1}),
      conv_glb_(out, width, {.kernel = 3, .padding = 1}),
      conv_matt_(out, width),
      tf_(kRefinementDepth, width, tokens) {
  child("conv_p1", conv_p1_);
  child("conv_p2", conv_p2_);
  child("conv_glb", conv_glb_);
  child("conv_matt.0", conv_matt_.conv);
  child("conv_matt.1", conv_matt_.norm);
  for (std::size_t i = 0; i < conv_fuse_.size(); ++i) {
    conv_fuse_[i] = std::make_unique<ConvNorm>(i == 0 ? 2 * width : width, width);
    child(cat("conv_fuse.", 3 * i), conv_fuse_[i]->conv);
    child(cat("conv_fuse.", 3 * i + 1), conv_fuse_[i]->norm);
  }
  child("tf", tf_);
}

ContextRefinement::Output ContextRefinement::forward(const at::Tensor& tokens, const at::Tensor& global) const {
  const at::Tensor context = conv_glb_.forward(at::pixel_unshuffle(global, global.size(-1) / side_));
  at::Tensor x = at::cat({context, to_map(tokens, side_)}, 1);
  for (const auto& fuse : conv_fuse_) x = fuse->forward(x);
  Output out;
  out.first = conv_p1_.forward(x);
  const at::Tensor sure = at::sigmoid(out.first);
  const at::Tensor unsure = conv_matt_.forward(sure * (1 - sure));
  out.tokens = tf_.forward(to_tokens(x * (1 + unsure)), /*with_positions=*/true);
  out.second = conv_p2_.forward(to_map(out.tokens, side_));
  return out;
}

struct SelfReformer::Shaper : nn::Module {
  Shaper(std::int64_t in, std::int64_t out) : norm(in), linear(in, out) {
    child("0", norm);
    child("1", linear);
  }
  at::Tensor forward(const at::Tensor& x) const { return at::gelu(linear.forward(norm.forward(x))); }
  nn::LayerNorm norm;
  nn::Linear linear;
};

struct SelfReformer::Merge : nn::Module {
  Merge() : norm(2 * kGlobalWidth), conv(2 * kGlobalWidth, kGlobalWidth, {.kernel = 3, .padding = 1}) {
    child("0", norm);
    child("1", conv);
  }
  at::Tensor forward(const at::Tensor& a, const at::Tensor& b) const {
    return at::leaky_relu(conv.forward(norm.forward(at::cat({a, b}, 1))), kLeak);
  }
  BatchNorm2d norm;
  nn::Conv2d conv;
};

struct SelfReformer::Head : nn::Module {
  Head()
      : first(kGlobalWidth, kGlobalWidth),
        second(kGlobalWidth, kGlobalWidth),
        last_norm(kGlobalWidth),
        last(kGlobalWidth, 1) {
    child("0", first.norm);
    child("1", first.linear);
    child("3", second.norm);
    child("4", second.linear);
    child("6", last_norm);
    child("7", last);
  }
  at::Tensor forward(const at::Tensor& x) const {
    return last.forward(last_norm.forward(second.forward(first.forward(x))));
  }
  Shaper first, second;
  nn::LayerNorm last_norm;
  nn::Linear last;
};

SelfReformer::SelfReformer(const PvtSizes& sizes)
    : encoder_(sizes), encoder_tf_ss_(kMainDepth, kGlobalWidth, kGlobalSide * kGlobalSide) {
  std::array<std::int64_t, 4> widths;  // coarsest first
  for (std::size_t i = 0; i < 4; ++i) widths[i] = sizes[3 - i].width;
  child("encoder.encoder", encoder_);
  child("encoder_tf_ss", encoder_tf_ss_);
  for (std::size_t i = 0; i < 4; ++i) {
    shapers_[i] = std::make_unique<Shaper>(widths[i], kShaped[i]);
    child(cat("encoder_shaper_", kSides[i]), *shapers_[i]);
  }
  constexpr std::array<const char*, 3> kMerges{"encoder_merge7_14", "encoder_merge28_14", "encoder_merge56_14"};
  for (std::size_t i = 0; i < 3; ++i) {
    merges_[i] = std::make_unique<Merge>();
    child(kMerges[i], *merges_[i]);
  }
  encoder_pred_ = std::make_unique<Head>();
  child("encoder_pred", *encoder_pred_);
  child("transformer", transformer_);
  for (std::size_t i = 0; i < 4; ++i) transformer_.add(kMainDepth, widths[i], kSides[i] * kSides[i]);
  for (std::size_t i = 0; i < 3; ++i) {
    fusers_[i] = std::make_unique<ReformerFuser>(widths[i + 1], kSides[i], widths[i]);
    child(cat("fuser", kSides[i], '_', kSides[i + 1]), *fusers_[i]);
  }
  for (std::size_t i = 0; i < 4; ++i) {
    refinements_[i] = std::make_unique<ContextRefinement>(widths[i], kShaped[i], kSides[i], kSides[i] * kSides[i]);
    child(cat("CRM_", kSides[i]), *refinements_[i]);
  }
}
SelfReformer::~SelfReformer() = default;

at::Tensor SelfReformer::global_map(const std::array<at::Tensor, 4>& levels) const {
  std::array<at::Tensor, 4> shaped;
  for (std::size_t i = 0; i < 4; ++i) shaped[i] = to_map(shapers_[i]->forward(levels[i]), kSides[i]);
  at::Tensor x = merges_[0]->forward(shaped[1], at::pixel_shuffle(shaped[0], 2));
  x = merges_[1]->forward(x, at::pixel_unshuffle(shaped[2], 2));
  x = merges_[2]->forward(x, at::pixel_unshuffle(shaped[3], 4));
  return to_map(encoder_pred_->forward(encoder_tf_ss_.forward(to_tokens(x), /*with_positions=*/true)), kGlobalSide);
}

std::vector<at::Tensor> SelfReformer::forward(const at::Tensor& pictures) const {
  DIVERGEN_CHECK(pictures.size(2) == kSide && pictures.size(3) == kSide, pictures.size(2), " ", pictures.size(3));
  std::array<at::Tensor, 4> levels = encoder_.forward(pictures);
  std::swap(levels[0], levels[3]);  // coarsest first from here on
  std::swap(levels[1], levels[2]);
  std::vector<at::Tensor> maps{global_map(levels)};
  // A place of the global map speaks for a square of 16 · 16 pixels.
  const at::Tensor global = at::pixel_shuffle(maps.front().repeat({1, 256, 1, 1}), 16);
  at::Tensor coarser;
  for (std::size_t i = 0; i < 4; ++i) {
    at::Tensor x = transformer_[i].forward(levels[i], /*with_positions=*/false);
    if (coarser.defined()) x = fusers_[i - 1]->forward(x, coarser);
    ContextRefinement::Output out = refinements_[i]->forward(x, global);
    maps.push_back(out.first);
    maps.push_back(out.second);
    coarser = out.tokens;
  }
  return maps;
}

PvtSizes selfreformer_sizes(const weights::WeightSource& source) {
  const auto find = [&](const std::string& name) {
    const weights::Weight* found = source.find(name);
    return found != nullptr ? found : source.find("module." + name);
  };
  const auto shape_of = [&](const std::string& name, std::size_t rank) -> const std::vector<std::int64_t>& {
    const weights::Weight* found = find(name);
    if (found == nullptr || found->shape.size() != rank || found->elements() == 0)
      fail(ErrorKind::Data,
           {"these are no weights of SelfReformer", cat(source.name(), " [", name, "]"),
            found == nullptr ? "there is no such name in it" : "it has other sizes", "name best_DUTS-TE.pt"});
    return found->shape;
  };
  PvtSizes sizes = kPvtV2B2;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::string stage = cat("encoder.encoder.block", i + 1, '.');
    PvtStageSizes& s = sizes[i];
    const auto& mlp = shape_of(stage + "0.mlp.fc1.weight", 2);
    s.width = mlp[1];
    s.mlp_ratio = mlp[0] / mlp[1];
    s.depth = 0;
    while (find(cat(stage, s.depth, ".norm1.weight")) != nullptr) ++s.depth;
    s.shrink = find(stage + "0.attn.sr.weight") != nullptr ? shape_of(stage + "0.attn.sr.weight", 4)[2] : 1;
    if (s.width % s.heads != 0 || s.mlp_ratio < 1)
      fail(ErrorKind::Data,
           {"these are no weights of SelfReformer", cat(source.name(), " [", stage, "0.mlp.fc1.weight]"),
            cat(s.heads, " heads do not divide its width ", s.width), "name best_DUTS-TE.pt"});
  }
  return sizes;
}

std::unique_ptr<SelfReformer> load_selfreformer(const Path& file) {
  const auto source = weights::open_weights(file);
  auto model = std::make_unique<SelfReformer>(selfreformer_sizes(*source));
  nn::load_module(*model, *source, {.rename = without_module_prefix});
  return model;
}

}  // namespace divergen::models
