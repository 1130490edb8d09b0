#pragma once
// Real crops of the evaluated categories, as DiverGen cuts them for its features: the object with some surroundings,
// which are blurred (reference/semantics.md §5.1, mode "padding", fill "blur"), or in its script's other ways.

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "image/image.hpp"
#include "lvis/dataset.hpp"
#include "mask/rle.hpp"

namespace divergen::stages {

using CropBox = image::Region;

/// The tight box of the mask, grown by `padding` px on each side and clipped to the picture. Nothing when the mask is
/// empty.
std::optional<CropBox> crop_box(const mask::Rle& mask, std::int64_t padding);

/// The square of the box's longer side around its middle, rounded to the top left; it may leave the picture (mode
/// "square").
CropBox square_box(const CropBox& box);

/// What pixels outside the mask become.
enum class CropFill { Blur, White, Black, None };
/// Of [filter] crop_fill.
CropFill crop_fill_of(const std::string& name);

/// The part of `picture` (any number of channels, size of the mask) inside `box`, its pixels outside the mask replaced:
/// blurred by a 10 × 10 box filter of the picture, white or black. What lies outside the picture is black. Costs the
/// box, not the picture.
image::Image filled_crop(const image::Image& picture, const mask::Rle& mask, const CropBox& box, CropFill fill);

/// The part of a picture of this size that filled_crop() looks at for a box, which must not lie outside of it.
CropBox needed_for_crop(const CropBox& box, int height, int width);
/// The same from that part, or any larger one, of the picture: `part` begins at `at.x`, `at.y`.
image::Image filled_crop(const image::Image& part, const CropBox& at, const mask::Rle& mask, const CropBox& box,
                         CropFill fill);

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
