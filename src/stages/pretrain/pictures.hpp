#pragma once
// Batches of the mini world's pictures as tensors.

#include <ATen/core/Tensor.h>

#include "miniworld/pictures.hpp"

namespace divergen::stages {

/// RGB bytes -> [N, 3, H, W] float in [-1, 1]; all of the same size.
at::Tensor to_unit_range(const std::vector<const image::Image*>& images);
/// [N, 3, H, W] in [-1, 1] -> RGB bytes, with diffusers' rounding (reference/generation.md §8).
std::vector<image::Image> to_images(const at::Tensor& images);

/// Pictures side by side, `columns` in a row, as one picture.
image::Image mosaic(const std::vector<image::Image>& images, int columns);

/// Which sprites a network learns from.
std::vector<std::size_t> named_sprites(const miniworld::World& world);  // evaluated and extra categories

}  // namespace divergen::stages
