#pragma once
// SelfReformer (Yun & Lin 2022): salient objects by a pyramid of transformers that refine a global map. Names and
// arithmetic of github.com/BarCodeReader/SelfReformer (model/*.py, commit 8c206f2).
//
// Shape letters: B pictures, L tokens (a map row by row), C channels. The sizes of maps are fixed: 7, 14, 28, 56 of
// 224.

#include <array>
#include <memory>

#include "base/fs.hpp"
#include "models/annotators/layers.hpp"
#include "models/annotators/pvt.hpp"

namespace divergen::weights {
class WeightSource;
}

namespace divergen::models {

/// Attention and MLP behind norms, and a last norm; with fixed sinusoids as positions.
struct ReformerBlock : nn::Module {
  explicit ReformerBlock(std::int64_t width);
  at::Tensor forward(const at::Tensor& x) const;

 private:
  nn::LayerNorm norm1_;
  nn::Linear qkv_, proj_;
  nn::LayerNorm norm2_;
  nn::Linear fc1_, fc2_;
};
struct ReformerTransformer : nn::Module {
  ReformerTransformer(std::int64_t depth, std::int64_t width, std::int64_t tokens);
  at::Tensor forward(at::Tensor x, bool with_positions) const;

 private:
  at::Tensor pos_embed_;  // [1, L, C]; in the file, as a parameter
  nn::List<ReformerBlock> blocks_;
  nn::LayerNorm norm_;
};

/// Attention of random features, whose cost grows with L alone; then an MLP.
struct TokenPerformer : nn::Module {
  explicit TokenPerformer(std::int64_t width);
  at::Tensor forward(const at::Tensor& x) const;

 private:
  at::Tensor features(const at::Tensor& x) const;  // [B, L, C] -> [B, L, C / 2], positive
  at::Tensor w_;                                   // [C / 2, C]
  nn::Linear kqv_, proj_;
  nn::LayerNorm norm1_, norm2_;
  nn::Linear first_, second_;
};

/// A coarser map's tokens put beside those of the next finer one.
struct ReformerFuser : nn::Module {
  ReformerFuser(std::int64_t width, std::int64_t coarse_side, std::int64_t coarse_width);
  at::Tensor forward(const at::Tensor& fine, const at::Tensor& coarse) const;

 private:
  std::int64_t side_;
  nn::Linear first_, second_;
  TokenPerformer att_;
};

/// A level's refinement: a prediction, attention to where it is unsure, a transformer, a second prediction.
struct ContextRefinement : nn::Module {
  ContextRefinement(std::int64_t width, std::int64_t out, std::int64_t side, std::int64_t tokens);
  struct Output {
    at::Tensor first, second;  // logits [B, out, side, side]: pixels of the whole picture, shuffled into channels
    at::Tensor tokens;         // [B, L, C]
  };
  /// global: [B, 1, 224, 224].
  Output forward(const at::Tensor& tokens, const at::Tensor& global) const;

 private:
  struct ConvNorm : nn::Module {  // convolution, norm, leaky ReLU: three places of a Sequential
    ConvNorm(std::int64_t in, std::int64_t out) : conv(in, out, {.kernel = 3, .padding = 1}), norm(out) {}
    at::Tensor forward(const at::Tensor& x) const { return at::leaky_relu(norm.forward(conv.forward(x)), 0.01); }
    nn::Conv2d conv;
    BatchNorm2d norm;
  };
  std::int64_t side_;
  nn::Conv2d conv_p1_, conv_p2_, conv_glb_;
  ConvNorm conv_matt_;
  std::array<std::unique_ptr<ConvNorm>, 3> conv_fuse_;
  ReformerTransformer tf_;
};

struct SelfReformer : nn::Module {
  static constexpr std::int64_t kSide = 224;
  explicit SelfReformer(const PvtSizes& sizes = kPvtV2B2);
  ~SelfReformer() override;
  /// Normalised pictures [B, 3, 224, 224] -> logits: the global map [B, 1, 14, 14], then of the levels 7, 14, 28, 56
  /// the first and the second prediction [B, (224 / level)², level, level].
  std::vector<at::Tensor> forward(const at::Tensor& pictures) const;

 private:
  struct Shaper;
  struct Merge;
  struct Head;
  at::Tensor global_map(const std::array<at::Tensor, 4>& levels) const;

  PyramidVisionTransformer encoder_;
  ReformerTransformer encoder_tf_ss_;
  std::array<std::unique_ptr<Shaper>, 4> shapers_;  // of 7, 14, 28, 56
  std::array<std::unique_ptr<Merge>, 3> merges_;
  std::unique_ptr<Head> encoder_pred_;
  nn::List<ReformerTransformer> transformer_;
  std::array<std::unique_ptr<ReformerFuser>, 3> fusers_;
  std::array<std::unique_ptr<ContextRefinement>, 4> refinements_;
};

/// Sizes of the encoder, which all others follow from, as the shapes of a weight file say (the heads, which no shape
/// tells, are b2's). Throws Error(Data) naming the key that is missing or has another rank.
PvtSizes selfreformer_sizes(const weights::WeightSource& source);

/// A checkpoint of any format (best_DUTS-TE.pt); "module." before its names is left out. Throws Error(Io | Data).
std::unique_ptr<SelfReformer> load_selfreformer(const Path& file);

}  // namespace divergen::models
