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

CropBox inside(const CropBox& box, int height, int width) {
  const int left = std::max(0, box.x), top = std::max(0, box.y);
  const int right = std::min(width, box.x + box.width), bottom = std::min(height, box.y + box.height);
  return {left, top, right - left, bottom - top};
}

CropBox grown(const CropBox& box, int by, int height, int width) {
  return inside({box.x - by, box.y - by, box.width + 2 * by, box.height + 2 * by}, height, width);
}

/// What the pixels of a box that lies in the picture become where there is no object. `part` of the picture begins at
/// `at`; `outer`: the box and what the blur needs around it.
image::Image filling_of(const image::Image& part, const CropBox& at, const CropBox& box, const CropBox& outer,
                        CropFill fill) {
  if (fill == CropFill::None) return image::crop(part, box.x - at.x, box.y - at.y, box.width, box.height);
  if (fill != CropFill::Blur)
    return image::Image(box.height, box.width, part.channels, fill == CropFill::White ? 255 : 0);
  // The blur needs kBlur/2 px around the box. Where the picture ends before that, its border is reflected as the
  // whole picture's would be; where it does not, the reflection falls into the margin that is cut off.
  const image::Image around = image::crop(part, outer.x - at.x, outer.y - at.y, outer.width, outer.height);
  return image::crop(image::box_blur(around, kBlur), box.x - outer.x, box.y - outer.y, box.width, box.height);
}

}  // namespace

std::optional<CropBox> crop_box(const mask::Rle& mask, std::int64_t padding) {
  if (mask::area(mask) == 0) return std::nullopt;
  const auto tight = mask::bounding_box(mask);
  const CropBox box{static_cast<int>(tight[0]), static_cast<int>(tight[1]), static_cast<int>(tight[2]),
                    static_cast<int>(tight[3])};
  return grown(box, static_cast<int>(padding), static_cast<int>(mask.height), static_cast<int>(mask.width));
}

CropBox square_box(const CropBox& box) {
  const int side = std::max(box.width, box.height);
  return {box.x - (side - box.width + 1) / 2, box.y - (side - box.height + 1) / 2, side, side};
}

CropFill crop_fill_of(const std::string& name) {
  if (name == "blur") return CropFill::Blur;
  if (name == "white") return CropFill::White;
  if (name == "black") return CropFill::Black;
  DIVERGEN_CHECK(name == "none", name);
  return CropFill::None;
}

CropBox needed_for_crop(const CropBox& box, int height, int width) {
  const CropBox inner = inside(box, height, width);
  DIVERGEN_CHECK(inner.width > 0 && inner.height > 0, "the box lies outside of the picture");
  return grown(inner, kBlur / 2, height, width);
}

image::Image filled_crop(const image::Image& picture, const mask::Rle& mask, const CropBox& box, CropFill fill) {
  DIVERGEN_CHECK(picture.height == mask.height && picture.width == mask.width, "picture and mask differ in size");
  return filled_crop(picture, {0, 0, picture.width, picture.height}, mask, box, fill);
}

image::Image filled_crop(const image::Image& part, const CropBox& at, const mask::Rle& mask, const CropBox& box,
                         CropFill fill) {
  const int height = static_cast<int>(mask.height), picture_width = static_cast<int>(mask.width);
  const CropBox inner = inside(box, height, picture_width);
  image::Image out(box.height, box.width, part.channels);
  if (inner.width <= 0 || inner.height <= 0) return out;
  const CropBox needed = needed_for_crop(box, height, picture_width);
  DIVERGEN_CHECK(part.height == at.height && part.width == at.width && at.x <= needed.x && at.y <= needed.y &&
                     at.x + at.width >= needed.x + needed.width && at.y + at.height >= needed.y + needed.height,
                 "the part of the picture does not hold what the crop needs");
  const image::Image filling = filling_of(part, at, inner, needed, fill);
  const std::vector<std::uint8_t> is_object = mask_inside(mask, inner);
  const auto width = static_cast<std::size_t>(inner.width);
  for (int y = 0; y < inner.height; ++y) {
    std::uint8_t* const row = out.at(inner.y - box.y + y, inner.x - box.x);
    std::copy_n(filling.at(y, 0), width * static_cast<std::size_t>(out.channels), row);
    // The object's stretches of the row, each copied at once.
    const std::uint8_t* const begin = &is_object[static_cast<std::size_t>(y) * width];
    const std::uint8_t* const end = begin + width;
    for (const std::uint8_t* from = std::find(begin, end, 1); from != end;) {
      const std::uint8_t* const to = std::find(from, end, 0);
      const auto first = static_cast<int>(from - begin);
      std::copy_n(part.at(inner.y - at.y + y, inner.x - at.x + first), (to - from) * out.channels,
                  row + first * out.channels);
      from = std::find(to, end, 1);
    }
  }
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
