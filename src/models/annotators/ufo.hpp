#pragma once
// UFO (Su et al. 2022): what several pictures have in common, by a transformer over all of them. Names and arithmetic
// of github.com/suyukun666/UFO (model_image.py, transformer.py, Intra_MLP.py; commit cdddf75).
//
// Shape letters: P pictures, a multiple of five; S side of the input, a multiple of 32.

#include <array>
#include <memory>

#include "base/fs.hpp"
#include "models/annotators/layers.hpp"

namespace divergen::weights {
class WeightSource;
}

namespace divergen::models {

/// Channels and widths; the defaults are the published ones.
struct UfoSizes {
  std::array<std::int64_t, 13> vgg{64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512};
  std::int64_t width = 512;                         // of all maps behind the backbone
  std::int64_t relation = 64, group_relation = 32;  // features whose products describe a picture, and a group
  std::int64_t classes = 78;
  std::int64_t layers = 4, heads = 4, mlp = 782;  // of the transformers; the heads are not in the file

  /// As the shapes of a weight file say. Throws Error(Data) naming the key that is missing or has another rank.
  static UfoSizes from(const weights::WeightSource& source);
};

/// VGG-16 with batch norm, as one list of layers.
struct UfoVgg : nn::Module {
  explicit UfoVgg(const UfoSizes& sizes);
  /// The maps after the second to the fifth pooling: S/4, S/8, S/16, S/32.
  std::array<at::Tensor, 4> forward(at::Tensor x) const;

 private:
  std::vector<nn::Conv2d*> convs_;
  std::vector<BatchNorm2d*> norms_;
};

/// Transformer over the places of all pictures of a group.
struct UfoTransformer : nn::Module {
  explicit UfoTransformer(const UfoSizes& sizes);
  /// [P, C, H, W] -> the same.
  at::Tensor forward(const at::Tensor& x) const;

 private:
  struct Layer : nn::Module {
    Layer(std::int64_t width, std::int64_t mlp, std::int64_t heads);
    at::Tensor forward(const at::Tensor& x) const;
    std::int64_t heads;
    nn::LayerNorm attention_norm, mlp_norm;
    nn::Linear to_qkv, to_out, first, second;
  };
  nn::List<Layer> layers_;
};

/// Convolution 1×1, ReLU, convolution 3×3, ReLU, and but for the finest level an enlargement by two.
struct UfoMerge : nn::Module {
  UfoMerge(std::int64_t width, bool is_enlarged);
  /// `coarser` is added between the convolutions; undefined at the coarsest level.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& coarser) const;

 private:
  nn::Conv2d first_, second_;
  std::unique_ptr<nn::ConvTranspose2d> enlarge_;
};

struct Ufo : nn::Module {
  static constexpr std::int64_t kGroup = 5;   // pictures that are looked at together
  static constexpr std::int64_t kSide = 224;  // px, as it was trained
  explicit Ufo(const UfoSizes& sizes);
  /// Normalised pictures [P, 3, S, S] -> how sure each pixel belongs to what a group has in common, [P, S, S].
  at::Tensor forward(const at::Tensor& pictures) const;

 private:
  at::Tensor neighbourhood(const at::Tensor& coarsest) const;  // [P, C, h, w] -> [P, C, h, w]
  at::Tensor group_vector(const at::Tensor& coarsest) const;   // [P, C, h, w] -> [P / 5, C]

  UfoVgg base_;
  nn::Conv2d sp1_, sp2_;
  nn::Linear cls_m_, cls_;
  std::array<std::unique_ptr<nn::Conv2d>, 4> incr_channel1_, incr_channel2_;
  UfoMerge concat_r_, concat1_;
  nn::Conv2d mask_;
  nn::ConvTranspose2d mask_enlarge_;
  nn::Conv2d intra_;
  UfoTransformer transformer_1_, transformer_2_;
};

/// A checkpoint of any format (image_best.pth); "module." before its names is left out. Throws Error(Io | Data).
std::unique_ptr<Ufo> load_ufo(const Path& file);

}  // namespace divergen::models
