#pragma once
// MatteFormer (Park et al. 2022): alpha mattes from a picture and a trimap, by a Swin Transformer whose windows also
// attend to the mean features of foreground, background and unknown. Names and arithmetic of
// github.com/webtoon/matteformer as X-Paste carries it (segment_methods/clipseg/matteformer/networks).
//
// Shape letters: B pictures, H and W multiples of 32, C channels, K priors (three kinds a block gone through).

#include <array>
#include <memory>

#include "base/fs.hpp"
#include "models/annotators/layers.hpp"
#include "models/detector/swin.hpp"

namespace divergen::models {

/// A convolution whose weight is divided by its largest singular value, of which the file has the vectors.
struct SpectralConv : nn::Module {
  SpectralConv(std::int64_t in, std::int64_t out, const nn::ConvOptions& options, bool is_transposed = false);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight_u, weight_v, weight_bar;
  nn::ConvOptions options;
  bool is_transposed;
};

struct MatteBlock : nn::Module {
  /// `priors`: sets of three that stand beside each window: one of every block so far.
  MatteBlock(std::int64_t width, std::int64_t heads, std::int64_t priors, bool is_shifted);
  /// x [B, H·W, C], priors [B, 3·(K-1), C] of the blocks before (undefined: none), areas [B, 3, H·W] (unknown,
  /// foreground, background); both come back as the next block wants them.
  void forward(at::Tensor& x, at::Tensor& priors, const at::Tensor& areas, const SwinWindows& windows) const;

  static constexpr std::int64_t kWindow = 7;
  bool is_shifted;

 private:
  at::Tensor attend(const at::Tensor& x, const at::Tensor& priors, const SwinWindows& windows) const;
  at::Tensor mlp(const at::Tensor& x) const;

  std::int64_t heads_;
  nn::LayerNorm norm1_;
  at::Tensor bias_table_, bias_index_;  // [169 + K, heads]; [49, 49 + K]
  nn::Linear qkv_, proj_;
  nn::LayerNorm norm2_;
  nn::Linear fc1_, fc2_;
};

/// A residual block of the decoder, which enlarges by two where `is_enlarged`.
struct MatteResidual : nn::Module {
  MatteResidual(std::int64_t in, std::int64_t out, bool is_enlarged);
  at::Tensor forward(const at::Tensor& x) const;

 private:
  SpectralConv conv1_;
  BatchNorm2d bn1_;
  SpectralConv conv2_;
  BatchNorm2d bn2_;
  std::unique_ptr<SpectralConv> upsample_;
  std::unique_ptr<BatchNorm2d> upsample_norm_;
};

struct MatteFormer : nn::Module {
  MatteFormer();
  ~MatteFormer() override;
  struct Output {
    at::Tensor fine, middle, coarse;  // [B, 1, H, W] in 0..1: the reference's alpha_os1, alpha_os4, alpha_os8
  };
  /// Picture [B, 3, H, W] with ImageNet's normalisation, trimap [B, 3, H, W]: one of background, unknown, foreground.
  Output forward(const at::Tensor& picture, const at::Tensor& trimap) const;

 private:
  struct Shortcut;
  struct Refine;
  struct Stage;
  std::vector<at::Tensor> encode(const at::Tensor& picture, const at::Tensor& trimap) const;

  nn::Conv2d patch_;
  nn::LayerNorm patch_norm_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<std::unique_ptr<nn::LayerNorm>> norms_;
  std::vector<std::unique_ptr<Shortcut>> shortcuts_;
  SpectralConv conv1_;
  BatchNorm2d bn1_;
  std::vector<std::unique_ptr<nn::List<MatteResidual>>> layers_;
  std::unique_ptr<Refine> refine_os1_, refine_os4_, refine_os8_;
};

/// A checkpoint of any format (best_model.pth: under "state_dict"). Throws Error(Io | Data).
std::unique_ptr<MatteFormer> load_matteformer(const Path& file);

}  // namespace divergen::models
