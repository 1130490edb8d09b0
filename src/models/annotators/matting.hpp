#pragma once
// From a rough map of the object to its alpha matte, as X-Paste asks MatteFormer for it
// (segment_methods/clipseg/matteformer/inference.py; reference/semantics.md §4.1).

#include "image/image.hpp"
#include "models/annotators/matteformer.hpp"

namespace divergen::models {

/// pixels [3, H, W] with ImageNet's normalisation, found [H, W] in 0..1 -> uint8 [H, W]: below 1/3 background, above
/// 2/3 foreground, between them what MatteFormer says.
at::Tensor matte(const MatteFormer& model, const at::Tensor& pixels, const at::Tensor& found);

/// Stretched over 0..255, in doubles and cut off as NumPy does it with whole numbers; of one value alone: black.
image::Image stretched_matte(const at::Tensor& alpha);

/// Where a matte is neither 0 nor 1, and `width` pixels around: uint8 [1, 1, H, W]
/// (utils.get_unknown_tensor_from_pred).
at::Tensor uncertain(const at::Tensor& alpha, std::int64_t width);

}  // namespace divergen::models
