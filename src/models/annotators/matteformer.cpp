#include "models/annotators/matteformer.hpp"

#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"
#include "nn/tensor_io.hpp"
#include "weights/weights.hpp"

namespace divergen::models {
namespace {

// Of Generator_MatteFormer (networks/generators.py).
constexpr std::array<std::int64_t, 4> kDepths{2, 2, 6, 2}, kHeads{3, 6, 12, 24}, kWidths{96, 192, 384, 768};
constexpr std::int64_t kPatch = 4, kMlpRatio = 4;
constexpr double kLeak = 0.2, kNoArea = 1e-9;
constexpr std::array<std::int64_t, 6> kShortcutIn{6, 96, 96, 192, 384, 768}, kShortcutOut{32, 32, 64, 128, 256, 512};
constexpr std::array<std::int64_t, 4> kDecoderOut{256, 128, 64, 32}, kDecoderDepths{2, 3, 3, 2};
constexpr std::int64_t kDecoderIn = 512;

at::Tensor leaky(const at::Tensor& x) { return at::leaky_relu(x, kLeak); }
at::Tensor to_share(const at::Tensor& x) { return (at::tanh(x) + 1.0) / 2.0; }

/// Every n-th row and column: nearest-neighbour shrinking by a whole number.
at::Tensor thinned(const at::Tensor& x, std::int64_t n) {
  return x.slice(2, 0, std::nullopt, n).slice(3, 0, std::nullopt, n);
}

/// int64 [49, 49 + 3 · priors]: pairs of tokens by their distance, then a row for each prior.
at::Tensor bias_index(std::int64_t window, std::int64_t priors) {
  const std::int64_t tokens = window * window, span = 2 * window - 1;
  const at::Tensor token = at::arange(tokens, at::kLong);
  const at::Tensor row = token.div(window, "floor"), column = token.remainder(window);
  const auto difference = [&](const at::Tensor& along) { return along.unsqueeze(1) - along + (window - 1); };
  const at::Tensor pairs = difference(row) * span + difference(column);
  const at::Tensor others = at::arange(3 * priors, at::kLong).add(span * span).expand({tokens, 3 * priors});
  return at::cat({pairs, others}, 1);
}

}  // namespace

SpectralConv::SpectralConv(std::int64_t in, std::int64_t out, const nn::ConvOptions& o, bool transposed)
    : options(o), is_transposed(transposed) {
  const std::int64_t rows = transposed ? in : out, columns = transposed ? out : in;
  parameter("module.weight_u", weight_u, {rows});
  parameter("module.weight_v", weight_v, {columns * o.kernel * o.kernel});
  parameter("module.weight_bar", weight_bar, {rows, columns, o.kernel, o.kernel});
}

at::Tensor SpectralConv::forward(const at::Tensor& x) const {
  const at::Tensor sigma = weight_u.dot(weight_bar.flatten(1).mv(weight_v));
  const at::Tensor weight = weight_bar / sigma;
  return is_transposed ? at::conv_transpose2d(x, weight, {}, options.stride, options.padding)
                       : at::conv2d(x, weight, {}, options.stride, options.padding);
}

MatteBlock::MatteBlock(std::int64_t width, std::int64_t heads, std::int64_t priors, bool shifted)
    : is_shifted(shifted),
      heads_(heads),
      norm1_(width),
      qkv_(width, 3 * width),
      proj_(width, width),
      norm2_(width),
      fc1_(width, kMlpRatio * width),
      fc2_(kMlpRatio * width, width) {
  constexpr std::int64_t kTokens = kWindow * kWindow, kPairs = (2 * kWindow - 1) * (2 * kWindow - 1);
  child("norm1", norm1_);
  parameter("attn.relative_position_bias_table", bias_table_, {kPairs + 3 * priors, heads});
  buffer("attn.relative_position_index", bias_index_, {kTokens, kTokens + 3 * priors}, at::kLong);
  if (!bias_index_.is_meta()) bias_index_.copy_(bias_index(kWindow, priors));
  child("attn.qkv", qkv_);
  child("attn.proj", proj_);
  child("norm2", norm2_);
  child("mlp.fc1", fc1_);
  child("mlp.fc2", fc2_);
}

at::Tensor MatteBlock::mlp(const at::Tensor& x) const {
  return x + fc2_.forward(at::gelu(fc1_.forward(norm2_.forward(x))));
}

at::Tensor MatteBlock::attend(const at::Tensor& x, const at::Tensor& priors, const SwinWindows& windows) const {
  constexpr std::int64_t kTokens = kWindow * kWindow;
  const auto batch = x.size(0), width = x.size(2), each = width / heads_, extra = priors.size(1), all = kTokens + extra;
  const at::Tensor tokens =
      nn::gather_rows(qkv_.forward(x), windows.place, qkv_.bias).view({batch, windows.count, kTokens, 3 * width});
  const at::Tensor beside = qkv_.forward(priors).unsqueeze(1).expand({batch, windows.count, extra, 3 * width});
  const at::Tensor parts =
      at::cat({tokens, beside}, 2).view({batch * windows.count, all, 3, heads_, each}).permute({2, 0, 3, 1, 4});
  const at::Tensor q = parts[0].narrow(2, 0, kTokens) * (1.0 / std::sqrt(static_cast<double>(each)));
  const at::Tensor bias =
      bias_table_.index_select(0, bias_index_.view(-1)).view({kTokens, all, heads_}).permute({2, 0, 1});
  at::Tensor scores = at::matmul(q, parts[1].transpose(-2, -1)) + bias;
  if (windows.mask.defined()) {
    const at::Tensor mask = at::constant_pad_nd(windows.mask, {0, extra}).unsqueeze(1);
    scores = (scores.view({batch, windows.count, heads_, kTokens, all}) + mask).view_as(scores);
  }
  const at::Tensor mixed =
      at::matmul(scores.softmax(-1), parts[2]).transpose(1, 2).reshape({batch, windows.count * kTokens, width});
  return nn::gather_rows(proj_.forward(mixed), windows.place.inverse());
}

void MatteBlock::forward(at::Tensor& x, at::Tensor& priors, const at::Tensor& areas, const SwinWindows& windows) const {
  const auto width = x.size(2);
  // Mean features of the three kinds of area, before this block.
  const at::Tensor means = at::matmul(areas, x) / (areas.sum(2, /*keepdim=*/true) + kNoArea);
  const at::Tensor memory = priors.defined() ? at::cat({priors, means}, 1) : means;
  const at::Tensor normed = norm1_.forward(memory);
  x = mlp(x + attend(norm1_.forward(x), normed, windows));
  // A prior goes on by its own value: nothing attends for it.
  const at::Tensor value =
      at::linear(normed, qkv_.weight.narrow(0, 2 * width, width), qkv_.bias.narrow(0, 2 * width, width));
  priors = mlp(memory + proj_.forward(value));
}

MatteResidual::MatteResidual(std::int64_t in, std::int64_t out, bool is_enlarged)
    : conv1_(in, in,
             is_enlarged ? nn::ConvOptions{.kernel = 4, .stride = 2, .padding = 1}
                         : nn::ConvOptions{.kernel = 3, .padding = 1},
             is_enlarged),
      bn1_(in),
      conv2_(in, out, {.kernel = 3, .padding = 1}),
      bn2_(out) {
  child("conv1", conv1_);
  child("bn1", bn1_);
  child("conv2", conv2_);
  child("bn2", bn2_);
  if (!is_enlarged) return;
  upsample_ = std::make_unique<SpectralConv>(in, out, nn::ConvOptions{.kernel = 1});
  upsample_norm_ = std::make_unique<BatchNorm2d>(out);
  child("upsample.1", *upsample_);
  child("upsample.2", *upsample_norm_);
}

at::Tensor MatteResidual::forward(const at::Tensor& x) const {
  const at::Tensor y = bn2_.forward(conv2_.forward(leaky(bn1_.forward(conv1_.forward(x)))));
  if (!upsample_) return leaky(y + x);
  const at::Tensor larger = at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)});
  return leaky(y + upsample_norm_->forward(upsample_->forward(larger)));
}

struct MatteFormer::Shortcut : nn::Module {
  Shortcut(std::int64_t in, std::int64_t out)
      : first(in, out, {.kernel = 3, .padding = 1}),
        first_norm(out),
        second(out, out, {.kernel = 3, .padding = 1}),
        second_norm(out) {
    child("0", first);
    child("2", first_norm);
    child("3", second);
    child("5", second_norm);
  }
  at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor y = first_norm.forward(at::relu(first.forward(x)));
    return second_norm.forward(at::relu(second.forward(y)));
  }
  SpectralConv first;
  BatchNorm2d first_norm;
  SpectralConv second;
  BatchNorm2d second_norm;
};

struct MatteFormer::Refine : nn::Module {
  explicit Refine(std::int64_t in)
      : first(in, 32, {.kernel = 3, .padding = 1, .bias = false}), norm(32), last(32, 1, {.kernel = 3, .padding = 1}) {
    child("0", first);
    child("1", norm);
    child("3", last);
  }
  at::Tensor forward(const at::Tensor& x) const { return last.forward(leaky(norm.forward(first.forward(x)))); }
  nn::Conv2d first;
  BatchNorm2d norm;
  nn::Conv2d last;
};

struct MatteFormer::Stage : nn::Module {
  explicit Stage(std::size_t i) {
    child("blocks", blocks);
    for (std::int64_t n = 0; n < kDepths[i]; ++n) blocks.add(kWidths[i], kHeads[i], n + 1, n % 2 == 1);
    if (i + 1 == kDepths.size()) return;
    downsample = std::make_unique<PatchMerging>(kWidths[i]);
    child("downsample", *downsample);
  }
  nn::List<MatteBlock> blocks;
  std::unique_ptr<PatchMerging> downsample;
};

MatteFormer::MatteFormer()
    : patch_(6, kWidths[0], {.kernel = kPatch, .stride = kPatch}),
      patch_norm_(kWidths[0]),
      conv1_(32, 32, {.kernel = 4, .stride = 2, .padding = 1}, true),
      bn1_(32),
      refine_os1_(std::make_unique<Refine>(32)),
      refine_os4_(std::make_unique<Refine>(64)),
      refine_os8_(std::make_unique<Refine>(128)) {
  child("encoder.patch_embed.proj", patch_);
  child("encoder.patch_embed.norm", patch_norm_);
  for (std::size_t i = 0; i < kDepths.size(); ++i) {
    stages_.push_back(std::make_unique<Stage>(i));
    child(cat("encoder.layers.", i), *stages_.back());
  }
  for (std::size_t i = 0; i < kDepths.size(); ++i) {
    norms_.push_back(std::make_unique<nn::LayerNorm>(kWidths[i]));
    child(cat("encoder.norm", i), *norms_.back());
  }
  for (std::size_t i = 0; i < kShortcutIn.size(); ++i) {
    shortcuts_.push_back(std::make_unique<Shortcut>(kShortcutIn[i], kShortcutOut[i]));
    child(cat("encoder.shortcut.", i), *shortcuts_.back());
  }
  child("decoder.conv1", conv1_);
  child("decoder.bn1", bn1_);
  std::int64_t in = kDecoderIn;
  for (std::size_t i = 0; i < kDecoderOut.size(); ++i) {
    layers_.push_back(std::make_unique<nn::List<MatteResidual>>());
    child(cat("decoder.layer", i + 1), *layers_.back());
    for (std::int64_t n = 0; n < kDecoderDepths[i]; ++n) {
      layers_.back()->add(in, kDecoderOut[i], n == 0);
      in = kDecoderOut[i];
    }
  }
  child("decoder.refine_OS1", *refine_os1_);
  child("decoder.refine_OS4", *refine_os4_);
  child("decoder.refine_OS8", *refine_os8_);
}
MatteFormer::~MatteFormer() = default;

std::vector<at::Tensor> MatteFormer::encode(const at::Tensor& picture, const at::Tensor& trimap) const {
  const at::Tensor input = at::cat({picture, trimap}, 1);
  std::vector<at::Tensor> outs{shortcuts_[0]->forward(input)};
  const at::Tensor patches = patch_.forward(input);
  auto height = patches.size(2), width = patches.size(3);
  const auto batch = patches.size(0);
  at::Tensor x = patch_norm_.forward(patches.flatten(2).transpose(1, 2));
  const auto map_of = [&](const at::Tensor& tokens) {
    return tokens.transpose(1, 2).reshape({batch, tokens.size(2), height, width});
  };
  outs.push_back(
      shortcuts_[1]->forward(at::upsample_bilinear2d(map_of(x), {2 * height, 2 * width}, /*align_corners=*/true)));
  const at::Tensor coarse = thinned(trimap, kPatch);
  // The reference calls the trimap's background "fg" and its foreground "bg", which its weights have learned.
  const at::Tensor order = at::tensor({1, 0, 2}, at::kLong).to(trimap.device());
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const at::Tensor areas = thinned(coarse, std::int64_t{1} << i).index_select(1, order).flatten(2);
    const SwinWindows plain(height, width, MatteBlock::kWindow, 0, x.device());
    const SwinWindows shifted(height, width, MatteBlock::kWindow, MatteBlock::kWindow / 2, x.device());
    at::Tensor priors;
    for (const MatteBlock* block : stages_[i]->blocks)
      block->forward(x, priors, areas, block->is_shifted ? shifted : plain);
    outs.push_back(shortcuts_[i + 2]->forward(map_of(norms_[i]->forward(x))));
    if (!stages_[i]->downsample) continue;
    x = stages_[i]->downsample->forward(x, height, width);
    height = (height + 1) / 2;
    width = (width + 1) / 2;
  }
  return outs;
}

MatteFormer::Output MatteFormer::forward(const at::Tensor& picture, const at::Tensor& trimap) const {
  const auto height = picture.size(2), width = picture.size(3);
  DIVERGEN_CHECK(height % 32 == 0 && width % 32 == 0, height, " ", width);
  const std::vector<at::Tensor> features = encode(picture, trimap);
  const auto layer = [&](std::size_t i, at::Tensor x) {
    for (const MatteResidual* block : *layers_[i]) x = block->forward(x);
    return x;
  };
  Output out;
  at::Tensor x = layer(0, features[5]) + features[4];
  x = layer(1, x) + features[3];
  out.coarse = to_share(resize_bilinear(refine_os8_->forward(x), height, width));
  x = layer(2, x) + features[2];
  out.middle = to_share(resize_bilinear(refine_os4_->forward(x), height, width));
  x = layer(3, x) + features[1];
  x = leaky(bn1_.forward(conv1_.forward(x))) + features[0];
  out.fine = to_share(refine_os1_->forward(x));
  return out;
}

std::unique_ptr<MatteFormer> load_matteformer(const Path& file) {
  std::shared_ptr<const weights::WeightSource> source = weights::open_weights(file);
  const auto has = [&](std::string_view prefix) {
    return std::any_of(source->tensors().begin(), source->tensors().end(),
                       [&](const weights::Weight& weight) { return weight.name.starts_with(prefix); });
  };
  if (has("state_dict.")) source = weights::select_prefix(source, "state_dict.");
  auto model = std::make_unique<MatteFormer>();
  nn::load_module(*model, *source, {.rename = without_module_prefix});
  return model;
}

}  // namespace divergen::models
