#include "stages/filter/real_crops.hpp"

#include <algorithm>
#include <map>
#include <tuple>

#include "base/error.hpp"
#include "image/geometry.hpp"

namespace divergen::stages {
namespace {

constexpr int kBlur = 10;  // px; OpenCV takes pixels i-5 .. i+4 for an even size (reference/semantics.md §5.1)

/// Bytes of the mask inside the box, row by row: the runs go down the columns.
std::vector<std::uint8_t> mask_inside(const mask::Rle& mask, const CropBox& box) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(box.width) * static_cast<std::size_t>(box.height), 0);
  std::int64_t at = 0;
  for (std::size_t i = 0; i < mask.counts.size(); ++i) {
    const std::int64_t end = at + mask.counts[i];
    if (i % 2 == 0) at = end;
    while (at < end) {
      const std::int64_t column = at / mask.height, first = at % mask.height;
      const std::int64_t last = std::min(mask.height, first + end - at);
      at += last - first;
      if (column < box.x || column >= box.x + box.width) continue;
      const std::int64_t low = std::max<std::int64_t>(first, box.y),
                         high = std::min<std::int64_t>(last, box.y + box.height);
      for (std::int64_t row = low; row < high; ++row)
        out[static_cast<std::size_t>((row - box.y) * box.width + column - box.x)] = 1;
    }
  }
  return out;
}

CropBox grown(const CropBox& box, int by, int height, int width) {
  const int left = std::max(0, box.x - by), top = std::max(0, box.y - by);
  const int right = std::min(width, box.x + box.width + by), bottom = std::min(height, box.y + box.height + by);
  return {left, top, right - left, bottom - top};
}

}  // namespace

std::optional<CropBox> crop_box(const mask::Rle& mask, std::int64_t padding) {
  if (mask::area(mask) == 0) return std::nullopt;
  const auto tight = mask::bounding_box(mask);
  const CropBox box{static_cast<int>(tight[0]), static_cast<int>(tight[1]), static_cast<int>(tight[2]),
                    static_cast<int>(tight[3])};
  return grown(box, static_cast<int>(padding), static_cast<int>(mask.height), static_cast<int>(mask.width));
}

image::Image blurred_crop(const image::Image& picture, const mask::Rle& mask, const CropBox& box) {
  DIVERGEN_CHECK(picture.height == mask.height && picture.width == mask.width, "picture and mask differ in size");
  // The blur needs kBlur/2 px around the box. Where the picture ends before that, its border is reflected as the
  // whole picture's would be; where it does not, the reflection falls into the margin that is cut off.
  const CropBox outer = grown(box, kBlur / 2, picture.height, picture.width);
  const image::Image around = image::crop(picture, outer.x, outer.y, outer.width, outer.height);
  image::Image out =
      image::crop(image::box_blur(around, kBlur), box.x - outer.x, box.y - outer.y, box.width, box.height);
  const std::vector<std::uint8_t> inside = mask_inside(mask, box);
  for (int y = 0; y < box.height; ++y)
    for (int x = 0; x < box.width; ++x)
      if (inside[static_cast<std::size_t>(y) * static_cast<std::size_t>(box.width) + static_cast<std::size_t>(x)] != 0)
        std::copy_n(picture.at(box.y + y, box.x + x), picture.channels, out.at(y, x));
  return out;
}

std::vector<CropPlace> plan_crops(const lvis::Dataset& dataset, const std::set<std::int32_t>& category_ids,
                                  std::int64_t per_category) {
  std::vector<CropPlace> all;
  for (std::size_t i = 0; i < dataset.annotations.size(); ++i) {
    const lvis::Annotation& annotation = dataset.annotations[i];
    const auto category = static_cast<std::int32_t>(annotation.category_id);
    if (annotation.is_crowd || !category_ids.contains(category)) continue;
    all.push_back({category, i, dataset.image_index.at(annotation.image_id)});
  }
  const auto key = [](const CropPlace& p) { return std::tuple(p.category_id, p.image, p.annotation); };
  std::sort(all.begin(), all.end(), [&](const CropPlace& a, const CropPlace& b) { return key(a) < key(b); });
  if (per_category == 0) return all;
  std::vector<CropPlace> some;
  std::map<std::int32_t, std::int64_t> taken;
  for (const CropPlace& place : all)
    if (++taken[place.category_id] <= per_category) some.push_back(place);
  return some;
}

}  // namespace divergen::stages
