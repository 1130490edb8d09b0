#pragma once
// Real crops of the evaluated categories, as DiverGen cuts them for its features: the object with some surroundings,
// which are blurred (reference/semantics.md §5.1, mode "padding", fill "blur").

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "image/image.hpp"
#include "lvis/dataset.hpp"
#include "mask/rle.hpp"

namespace divergen::stages {

struct CropBox {
  int x = 0, y = 0, width = 0, height = 0;
};

/// The tight box of the mask, grown by `padding` px on each side and clipped to the picture. Nothing when the mask is
/// empty.
std::optional<CropBox> crop_box(const mask::Rle& mask, std::int64_t padding);

/// The part of `picture` (any number of channels, size of the mask) inside `box`, its pixels outside the mask replaced
/// by a 10 × 10 box blur of the picture. Costs the box, not the picture.
image::Image blurred_crop(const image::Image& picture, const mask::Rle& mask, const CropBox& box);

/// A crop to be made: annotations of one category in the order of their pictures.
struct CropPlace {
  std::int32_t category_id = 0;
  std::size_t annotation = 0, image = 0;  // indices into the data set
};

/// Crops of the named categories, by (category id, picture, annotation) in file order, at most `per_category` of each
/// (0: all). Annotations of crowds are no single objects and left out.
std::vector<CropPlace> plan_crops(const lvis::Dataset& dataset, const std::set<std::int32_t>& category_ids,
                                  std::int64_t per_category);

}  // namespace divergen::stages
