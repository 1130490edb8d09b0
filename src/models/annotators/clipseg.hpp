#pragma once
// CLIPSeg (Lüddecke & Ecker 2022): a small transformer that finds in CLIP's image tower what a text names. Names of
// transformers' CLIPSegForImageSegmentation; the repository's own files (github.com/timojl/clipseg, models/clipseg.py:
// CLIPDensePredT) come in through the key map clipseg-to-hf.
//
// Shape letters: B pictures, S side of the input, D channels of a tower, R of the decoder.

#include <memory>

#include "base/fs.hpp"
#include "models/annotators/layers.hpp"
#include "models/clip/clip.hpp"

namespace divergen::models {

struct ClipSegConfig {
  ClipTextConfig text;
  ClipVisionConfig vision;
  std::int64_t projection = 512, reduce = 64, heads = 4, intermediate = 2048;
  std::vector<std::int64_t> extract{3, 6, 9};  // blocks of the image tower whose output the decoder sees
  std::int64_t conditional_layer = 0;          // of the decoder, where the text comes in
  bool complex_convolution = false;            // the "refined" files: three convolutions at the end in place of one

  /// transformers' config.json; what it leaves out has the library's defaults.
  static ClipSegConfig from(const ModelConfig& config);
};

/// Attention, norm, MLP, norm: the norms stand behind what is added, other than in CLIP.
struct ClipSegDecoderLayer : nn::Module {
  ClipSegDecoderLayer(const ClipTowerSizes& sizes);
  at::Tensor forward(const at::Tensor& x) const;
  ClipAttention self_attn;
  nn::LayerNorm layer_norm1;
  nn::Linear fc1, fc2;
  nn::LayerNorm layer_norm2;
};

struct ClipSegDecoder : nn::Module {
  explicit ClipSegDecoder(const ClipSegConfig& config);
  /// Outputs of the extracted blocks [B, 1 + tokens, D] in order, text features [B, projection] -> logits [B, S, S].
  at::Tensor forward(const std::vector<at::Tensor>& activations, const at::Tensor& condition) const;

 private:
  at::Tensor enlarge(const at::Tensor& x) const;

  std::int64_t conditional_layer_;
  nn::Linear film_mul_, film_add_;
  std::unique_ptr<nn::Conv2d> refine_;
  std::vector<std::unique_ptr<nn::ConvTranspose2d>> transposed_;  // one, or with refine_ two
  nn::List<nn::Linear> reduces_;
  nn::List<ClipSegDecoderLayer> layers_;
};

struct ClipSeg : nn::Module {
  explicit ClipSeg(const ClipSegConfig& config);
  /// Normalised pictures [B, 3, S, S] of any S that is a multiple of the patch, text features [B, projection]
  /// -> logits [B, S, S].
  at::Tensor forward(const at::Tensor& pictures, const at::Tensor& condition) const;
  /// Outputs of the extracted blocks; the tower's positions are resized to the picture, and blocks behind the last
  /// extracted one are not computed.
  std::vector<at::Tensor> activations(const at::Tensor& pictures) const;

  ClipSegConfig config;
  Clip clip;
  ClipSegDecoder decoder;
};

/// `weights`: a transformers folder (config.json), or a file of the repository: the decoder alone (rd64-uni.pth), for
/// which `clip` names ViT-B/16 as OpenAI's file or a transformers folder, or both in one. Throws Error(Io | Data).
std::unique_ptr<ClipSeg> load_clipseg(const Path& weights, const Path& clip);

}  // namespace divergen::models
