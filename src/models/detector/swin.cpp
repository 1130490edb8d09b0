#include "models/detector/swin.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.hpp"
#include "nn/checkpointing.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kPatch = 4;              // side of a token in pixels
constexpr double kMasked = -100;                // of Swin's attention masks
constexpr std::size_t kMostWindowLayouts = 64;  // kept; multi-scale training meets a few sizes again and again

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// int64 [window², window²]: row of the bias table for each pair of tokens of a window.
at::Tensor position_index(std::int64_t window) {
  const at::Tensor token = at::arange(window * window, at::kLong);
  const at::Tensor row = token.div(window, "floor"), column = token.remainder(window);
  const auto difference = [&](const at::Tensor& along) { return along.unsqueeze(1) - along + (window - 1); };
  return difference(row) * (2 * window - 1) + difference(column);
}

/// timm's and Swin's trunc_normal_: deviation 0.02, cut at ±2, which is a hundred deviations away.
void truncated_normal(at::Tensor& tensor, at::Generator& generator) {
  constexpr double kStd = 0.02, kCut = 2;
  tensor.normal_(0.0, kStd, generator).clamp_(-kCut, kCut);
}

std::vector<at::Tensor> tensors_of(const nn::Module& module) {
  std::vector<at::Tensor> out;
  for (const nn::NamedTensor& parameter : module.named_parameters()) out.push_back(parameter.tensor);
  return out;
}

}  // namespace

SwinSizes swin_sizes(const config::DetectorSettings& settings) {
  SwinSizes sizes;
  sizes.width = settings.swin_width;
  sizes.depths = settings.depths;
  sizes.heads = settings.swin_heads;
  sizes.window = settings.swin_window;
  sizes.mlp_ratio = settings.swin_mlp_ratio;
  sizes.drop_path = settings.drop_path;
  return sizes;
}

SwinWindows::SwinWindows(std::int64_t height, std::int64_t width, std::int64_t window, std::int64_t shift,
                         at::Device device) {
  const std::int64_t padded_height = round_up(height, window), padded_width = round_up(width, window);
  const std::int64_t down = padded_height / window, across = padded_width / window;
  count = down * across;
  const auto all = [&](const at::Tensor& rows, const at::Tensor& columns, std::int64_t row_factor) {
    // A grid of the padded map -> window by window.
    const at::Tensor grid = rows.view({-1, 1}) * row_factor + columns.view({1, -1});
    return grid.view({down, window, across, window}).permute({0, 2, 1, 3}).reshape({count, window * window});
  };
  // What stands at a place of the rolled map came from `shift` further.
  const at::Tensor row = at::arange(padded_height, at::kLong).add(shift).remainder(padded_height);
  const at::Tensor column = at::arange(padded_width, at::kLong).add(shift).remainder(padded_width);
  const at::Tensor is_real = all(row.lt(height).to(at::kLong), column.lt(width).to(at::kLong), 1).eq(2);
  const at::Tensor from = all(row, column, width).masked_fill(is_real.logical_not(), -1);
  place = nn::RowMap::of(from.view(-1).to(device), height * width);
  if (shift == 0) return;
  // Three bands an axis: what the roll left alone, the rest of the last windows, what came round from the other end.
  const auto band = [&](std::int64_t size) {
    const at::Tensor at = at::arange(size, at::kLong);
    return at.ge(size - window).to(at::kLong) + at.ge(size - shift).to(at::kLong);
  };
  const at::Tensor region = all(band(padded_height), band(padded_width), 3);
  mask = region.unsqueeze(1).ne(region.unsqueeze(2)).to(at::kFloat).mul_(kMasked).to(device);
}

WindowAttention::WindowAttention(std::int64_t width, std::int64_t window_, std::int64_t heads_)
    : qkv(width, 3 * width), proj(width, width), window(window_), heads(heads_) {
  const std::int64_t offsets = 2 * window - 1, tokens = window * window;
  parameter("relative_position_bias_table", relative_position_bias_table, {offsets * offsets, heads});
  buffer("relative_position_index", relative_position_index, {tokens, tokens}, at::kLong);
  if (!relative_position_index.is_meta()) relative_position_index.copy_(position_index(window));
  child("qkv", qkv);
  child("proj", proj);
}

at::Tensor WindowAttention::bias() const {
  const std::int64_t tokens = window * window;
  return relative_position_bias_table.index_select(0, relative_position_index.view(-1))
      .view({tokens, tokens, heads})
      .permute({2, 0, 1})
      .contiguous();
}

at::Tensor WindowAttention::forward(const at::Tensor& x, const SwinWindows& windows) const {
  const std::int64_t images = x.size(0), width = x.size(2), tokens = window * window, each = width / heads;
  // Before the tokens go into their windows: padding then costs no products.
  const at::Tensor projected = qkv.forward(x);
  const at::Tensor in_windows = nn::gather_rows(projected, windows.place, qkv.bias.to(projected.scalar_type()))
                                    .view({images * windows.count, tokens, 3, heads, each})
                                    .permute({2, 0, 3, 1, 4});
  const at::Tensor q = in_windows[0] * (1.0 / std::sqrt(static_cast<double>(each)));
  at::Tensor scores = at::matmul(q, in_windows[1].transpose(-2, -1));  // [N · count, heads, tokens, tokens]
  if (windows.mask.defined()) {
    scores = scores.view({images, windows.count, heads, tokens, tokens}) + (windows.mask.unsqueeze(1) + bias());
    scores = scores.view({images * windows.count, heads, tokens, tokens});
  } else {
    scores = scores + bias();
  }
  const at::Tensor mixed =
      at::matmul(scores.softmax(-1), in_windows[2]).transpose(1, 2).reshape({images, windows.count * tokens, width});
  return proj.forward(nn::gather_rows(mixed, windows.place.inverse()));
}

SwinBlock::Mlp::Mlp(std::int64_t width, std::int64_t hidden) : fc1(width, hidden), fc2(hidden, width) {
  child("fc1", fc1);
  child("fc2", fc2);
}

SwinBlock::SwinBlock(std::int64_t width, std::int64_t hidden, std::int64_t window, std::int64_t heads, double drop)
    : norm1(width), attn(width, window, heads), norm2(width), mlp(width, hidden), drop_path(drop) {
  child("norm1", norm1);
  child("attn", attn);
  child("norm2", norm2);
  child("mlp", mlp);
}

at::Tensor SwinBlock::draw_branch(const at::Tensor& x) const {
  if (drop_path == 0 || !is_training()) return {};
  const double keep = 1 - drop_path;
  return at::rand({x.size(0), 1, 1}, at::kFloat).add_(keep).floor_().div_(keep).to(x.device());
}

at::Tensor SwinBlock::forward(const at::Tensor& x, const SwinWindows& windows, const at::Tensor& keep_attention,
                              const at::Tensor& keep_mlp) const {
  const auto branch = [](const at::Tensor& to, const at::Tensor& y, const at::Tensor& keep) {
    return keep.defined() ? at::addcmul(to, y.to(to.scalar_type()), keep.to(to.scalar_type())) : to + y;
  };
  const at::Tensor between = branch(x, attn.forward(norm1.forward(x), windows), keep_attention);
  return branch(between, mlp.fc2.forward(at::gelu(mlp.fc1.forward(norm2.forward(between)))), keep_mlp);
}

PatchMerging::PatchMerging(std::int64_t width) : reduction(4 * width, 2 * width, /*with_bias=*/false), norm(4 * width) {
  child("reduction", reduction);
  child("norm", norm);
}

at::Tensor PatchMerging::forward(const at::Tensor& x, std::int64_t height, std::int64_t width) const {
  const std::int64_t images = x.size(0), channels = x.size(2);
  at::Tensor map = x.view({images, height, width, channels});
  if (height % 2 != 0 || width % 2 != 0) map = at::constant_pad_nd(map, {0, 0, 0, width % 2, 0, height % 2});
  const std::int64_t rows = (height + 1) / 2, columns = (width + 1) / 2;
  // (row, column) of the neighbours in the order (0, 0), (1, 0), (0, 1), (1, 1).
  const at::Tensor four = map.view({images, rows, 2, columns, 2, channels})
                              .permute({0, 1, 3, 4, 2, 5})
                              .reshape({images, rows * columns, 4 * channels});
  return reduction.forward(norm.forward(four));
}

Swin::PatchEmbed::PatchEmbed(std::int64_t width) : proj(3, width, {.kernel = kPatch, .stride = kPatch}), norm(width) {
  child("proj", proj);
  child("norm", norm);
}

Swin::Stage::Stage(const SwinSizes& sizes, std::size_t index, const std::vector<double>& drop_path) {
  const std::int64_t width = sizes.width << index;
  const auto hidden = static_cast<std::int64_t>(static_cast<double>(width) * sizes.mlp_ratio);
  child("blocks", blocks);
  for (const double rate : drop_path) blocks.add(width, hidden, sizes.window, sizes.heads[index], rate);
  if (index + 1 == sizes.depths.size()) return;
  downsample = std::make_unique<PatchMerging>(width);
  child("downsample", *downsample);
}

Swin::Swin(const SwinSizes& sizes) : sizes_(sizes), patch_embed_(sizes.width) {
  DIVERGEN_CHECK(sizes.depths.size() == sizes.heads.size() && sizes.outputs.size() >= 3 &&
                     sizes.outputs.back() < sizes.depths.size(),
                 "the sizes of a Swin Transformer");
  child("patch_embed", patch_embed_);
  child("layers", layers_);
  std::int64_t blocks = 0;
  for (const std::int64_t depth : sizes.depths) blocks += depth;
  // In float32, as the reference's linspace.
  const at::Tensor rates = at::linspace(0, sizes.drop_path, blocks, at::TensorOptions(at::kFloat).device(at::kCPU));
  const float* rate = rates.const_data_ptr<float>();
  for (std::size_t i = 0; i < sizes.depths.size(); ++i) {
    layers_.add(sizes, i, std::vector<double>(rate, rate + sizes.depths[i]));
    rate += sizes.depths[i];
  }
  for (const std::size_t output : sizes.outputs) {
    norms_.push_back(std::make_unique<nn::LayerNorm>(sizes.width << output));
    child("norm" + std::to_string(output), *norms_.back());
  }
}

std::array<std::int64_t, 3> Swin::channels() const {
  std::array<std::int64_t, 3> out;
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = sizes_.width << sizes_.outputs[sizes_.outputs.size() - out.size() + i];
  return out;
}

std::shared_ptr<const SwinWindows> Swin::windows_of(const Tokens& tokens, bool shifted) const {
  const std::int64_t shift = shifted ? sizes_.window / 2 : 0;
  const WindowsKey key{tokens.height, tokens.width, shift, tokens.x.device().str()};
  const std::lock_guard lock(mutex_);
  if (const auto found = windows_.find(key); found != windows_.end()) return found->second;
  if (windows_.size() >= kMostWindowLayouts) windows_.clear();
  at::NoGradGuard no_grad;
  return windows_[key] =
             std::make_shared<SwinWindows>(tokens.height, tokens.width, sizes_.window, shift, tokens.x.device());
}

Swin::Tokens Swin::embed(const at::Tensor& x) const {
  const std::int64_t below = round_up(x.size(2), kPatch) - x.size(2), right = round_up(x.size(3), kPatch) - x.size(3);
  const at::Tensor map =
      patch_embed_.proj.forward(below + right > 0 ? at::constant_pad_nd(x, {0, right, 0, below}) : x);
  return {patch_embed_.norm.forward(map.flatten(2).transpose(1, 2)), map.size(2), map.size(3)};
}

at::Tensor Swin::stage(std::size_t index, const Tokens& tokens) const {
  at::Tensor x = tokens.x;
  bool shifted = false;
  for (const SwinBlock* block : layers_[index].blocks) {
    // Drawn here, so that a block computed twice is the same block.
    const at::Tensor attention = block->draw_branch(x), mlp = block->draw_branch(x);
    const auto run = [block, windows = windows_of(tokens, shifted), attention, mlp](const at::Tensor& in) {
      return block->forward(in, *windows, attention, mlp);
    };
    x = checkpointing_ && is_training() ? nn::checkpoint(run, x, tensors_of(*block)) : run(x);
    shifted = !shifted;
  }
  return x;
}

Swin::Tokens Swin::merge(std::size_t index, const Tokens& tokens) const {
  return {layers_[index].downsample->forward(tokens.x, tokens.height, tokens.width), (tokens.height + 1) / 2,
          (tokens.width + 1) / 2};
}

std::vector<at::Tensor> Swin::maps(const at::Tensor& x) const {
  std::vector<at::Tensor> out;
  Tokens tokens = embed(x);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    tokens.x = stage(i, tokens);
    if (out.size() < sizes_.outputs.size() && sizes_.outputs[out.size()] == i) {
      const at::Tensor y = norms_[out.size()]->forward(tokens.x);
      out.push_back(y.view({y.size(0), tokens.height, tokens.width, -1})
                        .permute({0, 3, 1, 2})
                        .contiguous(x.suggest_memory_format()));
    }
    if (layers_[i].downsample) tokens = merge(i, tokens);
  }
  return out;
}

std::array<at::Tensor, 3> Swin::forward(const at::Tensor& x) const {
  const std::vector<at::Tensor> all = maps(x);
  std::array<at::Tensor, 3> out;
  std::copy(all.end() - 3, all.end(), out.begin());
  return out;
}

void Swin::init(at::Generator& generator) {
  at::NoGradGuard no_grad;
  for (auto& [name, tensor, is_parameter, is_persistent] : named_tensors()) {
    if (!is_parameter) continue;                  // the index of positions stands since construction
    if (name.starts_with("patch_embed.proj.")) {  // PyTorch's default of convolutions
      const double bound = 1 / std::sqrt(3.0 * kPatch * kPatch);
      tensor.uniform_(-bound, bound, generator);
    } else if (name.ends_with("bias")) {
      tensor.zero_();
    } else if (tensor.dim() == 1) {
      tensor.fill_(1);
    } else {
      truncated_normal(tensor, generator);
    }
  }
}

}  // namespace divergen::models
