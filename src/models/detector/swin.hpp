#pragma once
// Swin Transformer as detectors use it: names and arithmetic of the implementation in Detic and DiverGen
// (reference/detector.md §2a, §3). Any width, depth, window; any picture size.
//
// Tokens: [N, H·W, C], row by row.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "models/detector/backbone.hpp"
#include "nn/gather_rows.hpp"

namespace divergen::models {

struct SwinSizes {
  std::int64_t width = 192;  // channels of the first stage, doubled each stage; the values here are Swin-L's
  std::vector<std::int64_t> depths{2, 2, 18, 2};
  std::vector<std::int64_t> heads{6, 12, 24, 48};
  std::int64_t window = 12;
  double mlp_ratio = 4;
  double drop_path = 0.3;                     // of the last block, rising linearly from 0
  std::vector<std::size_t> outputs{1, 2, 3};  // stages whose maps are normalised and given
};
SwinSizes swin_sizes(const config::DetectorSettings& settings);

/// How the tokens of a map lie in windows. The map is padded at the right and below to whole windows, and rolled up and
/// left by `shift`.
struct SwinWindows {
  SwinWindows(std::int64_t height, std::int64_t width, std::int64_t window, std::int64_t shift, at::Device device);

  std::int64_t count;  // windows of a map
  nn::RowMap place;    // of tokens in windows; padding is a hole
  /// [count, window², window²]: -100 between tokens that only the roll made neighbours, else 0; undefined without a
  /// shift.
  at::Tensor mask;
};

/// Attention within windows, with a learned bias for each relative position.
struct WindowAttention : nn::Module {
  WindowAttention(std::int64_t width, std::int64_t window, std::int64_t heads);
  /// x [N, L, width], normalised -> the same. Tokens of padding are zeros that take part in attention, as in the
  /// reference: their keys and values are the biases.
  at::Tensor forward(const at::Tensor& x, const SwinWindows& windows) const;
  at::Tensor relative_position_bias_table, relative_position_index;
  nn::Linear qkv, proj;
  std::int64_t window, heads;

 private:
  at::Tensor bias() const;  // [heads, window², window²]
};

struct SwinBlock : nn::Module {
  SwinBlock(std::int64_t width, std::int64_t hidden, std::int64_t window, std::int64_t heads, double drop_path);
  /// keep_attention, keep_mlp: factors [N, 1, 1] of the two branches (stochastic depth), undefined for 1.
  at::Tensor forward(const at::Tensor& x, const SwinWindows& windows, const at::Tensor& keep_attention,
                     const at::Tensor& keep_mlp) const;
  /// Draws the factor of one branch: 0 with the chance `drop_path`, else 1 / (1 - drop_path); from the CPU's default
  /// generator, whatever the device. Undefined where nothing is ever dropped, and then nothing is drawn.
  at::Tensor draw_branch(const at::Tensor& x) const;
  struct Mlp : nn::Module {
    Mlp(std::int64_t width, std::int64_t hidden);
    nn::Linear fc1, fc2;
  };
  nn::LayerNorm norm1;
  WindowAttention attn;
  nn::LayerNorm norm2;
  Mlp mlp;
  double drop_path;
};

/// Four neighbours become one token of twice the channels.
struct PatchMerging : nn::Module {
  explicit PatchMerging(std::int64_t width);
  /// [N, height · width, C] -> [N, ⌈height/2⌉ · ⌈width/2⌉, 2C]; odd sides are padded with zeros.
  at::Tensor forward(const at::Tensor& x, std::int64_t height, std::int64_t width) const;
  nn::Linear reduction;
  nn::LayerNorm norm;
};

class Swin : public BottomUp {
 public:
  explicit Swin(const SwinSizes& sizes);
  std::array<at::Tensor, 3> forward(const at::Tensor& x) const override;
  std::array<std::int64_t, 3> channels() const override;
  void init(at::Generator& generator) override;
  void checkpoint_blocks(bool on) override { checkpointing_ = on; }

  /// The maps of sizes.outputs. x [N, 3, H, W] of any size.
  std::vector<at::Tensor> maps(const at::Tensor& x) const;

  // Steps, for comparing with a reference.
  struct Tokens {
    at::Tensor x;
    std::int64_t height, width;
  };
  Tokens embed(const at::Tensor& x) const;
  /// The blocks of a stage, without the merging that follows.
  at::Tensor stage(std::size_t index, const Tokens& tokens) const;
  Tokens merge(std::size_t index, const Tokens& tokens) const;

 private:
  struct PatchEmbed : nn::Module {
    explicit PatchEmbed(std::int64_t width);
    nn::Conv2d proj;
    nn::LayerNorm norm;
  };
  struct Stage : nn::Module {
    Stage(const SwinSizes& sizes, std::size_t index, const std::vector<double>& drop_path);
    nn::List<SwinBlock> blocks;
    std::unique_ptr<PatchMerging> downsample;
  };
  std::shared_ptr<const SwinWindows> windows_of(const Tokens& tokens, bool shifted) const;

  SwinSizes sizes_;
  PatchEmbed patch_embed_;
  nn::List<Stage> layers_;
  std::vector<std::unique_ptr<nn::LayerNorm>> norms_;
  bool checkpointing_ = false;

  using WindowsKey = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::string>;
  mutable std::mutex mutex_;
  mutable std::map<WindowsKey, std::shared_ptr<const SwinWindows>> windows_;  // of sizes that were met
};

}  // namespace divergen::models
