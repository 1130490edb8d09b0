#pragma once
// U²-Net, UFO and SelfReformer as annotators, the way X-Paste runs them (segment_methods/*/export.py;
// reference/semantics.md §4.1): a picture's salient object, whatever it is, stretched over 0..255.

#include <array>
#include <memory>

#include "models/annotator.hpp"

namespace divergen::models {

/// Of each colour, for values in 0..1.
struct ColourStatistics {
  std::array<double, 3> mean, deviation;
};
inline constexpr ColourStatistics kImageNet{{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};

/// RGB pictures of one size -> [B, 3, H, W] in 0..1, normalised (torchvision's ToTensor and Normalize).
at::Tensor normalised(std::span<const image::Image> pictures, const ColourStatistics& colours, at::Device device);

/// Maps [B, H, W] -> grey pictures, each stretched so that its least value becomes 0 and its largest 255, fractions cut
/// off. A map with one value alone or with NaN, of which the reference makes NaN, becomes black.
std::vector<image::Image> stretched(const at::Tensor& maps);

/// Weights: u2net.pth or u2netp.pth. Input 256 px, the fused output.
std::unique_ptr<Annotator> make_u2net_annotator(const AnnotatorSettings& settings, at::Device device);
/// Weights: image_best.pth. Input 224 px, in groups of five pictures that show the same.
std::unique_ptr<Annotator> make_ufo_annotator(const AnnotatorSettings& settings, at::Device device);
/// Weights: best_DUTS-TE.pt. Input 224 px.
std::unique_ptr<Annotator> make_selfreformer_annotator(const AnnotatorSettings& settings, at::Device device);

}  // namespace divergen::models
