#include "stages/augment/resize_crop.hpp"

#include <algorithm>
#include <cmath>

#include "image/pil_resize.hpp"

namespace divergen::stages {
namespace {

image::Image resize_crop_flip(const ResizeCrop& t, const image::Image& image, image::Filter filter) {
  return image::pil_resize_window(image, t.scaled_height, t.scaled_width, filter, t.offset_y, t.offset_x, t.height,
                                  t.width, t.flip);
}

}  // namespace

ResizeCrop draw_resize_crop(int height, int width, const ResizeCropRules& rules, Draws& draws) {
  const double aim = draws.uniform("lsj_scale", rules.scale_low, rules.scale_high) * rules.size;
  ResizeCrop t;
  t.scale = std::min(aim / height, aim / width);
  t.scaled_height = std::max(1, static_cast<int>(height * t.scale));
  t.scaled_width = std::max(1, static_cast<int>(width * t.scale));
  const auto offset = [&](const char* meaning, int scaled) {
    return static_cast<int>(std::max(0, scaled - rules.size) * draws.uniform(meaning, 0, 1));
  };
  t.offset_y = offset("lsj_offset_y", t.scaled_height);
  t.offset_x = offset("lsj_offset_x", t.scaled_width);
  t.height = std::min(t.scaled_height - t.offset_y, rules.size);
  t.width = std::min(t.scaled_width - t.offset_x, rules.size);
  t.flip = draws.uniform("flip", 0, 1) < rules.flip;
  return t;
}

image::Image apply(const ResizeCrop& transform, const image::Image& image) {
  return resize_crop_flip(transform, image, image::Filter::Bilinear);
}
image::Image apply_to_mask(const ResizeCrop& transform, const image::Image& mask) {
  return resize_crop_flip(transform, mask, image::Filter::Nearest);
}

std::array<double, 4> apply_to_box(const ResizeCrop& t, const std::array<double, 4>& xywh) {
  const auto x = static_cast<float>(xywh[0]), y = static_cast<float>(xywh[1]);
  const float right = x + static_cast<float>(xywh[2]), lower = y + static_cast<float>(xywh[3]);
  const auto corners = apply_to_polygon(t, {x, y, right, lower});
  const auto [x0, x1] = std::minmax(corners[0], corners[2]);
  const auto [y0, y1] = std::minmax(corners[1], corners[3]);
  const double w = t.width, h = t.height;
  return {std::clamp(x0, 0.0, w), std::clamp(y0, 0.0, h), std::clamp(x1, 0.0, w), std::clamp(y1, 0.0, h)};
}

std::vector<double> apply_to_polygon(const ResizeCrop& t, const std::vector<double>& xy) {
  std::vector<double> out(xy.size());
  for (std::size_t i = 0; i + 1 < xy.size(); i += 2) {
    const double x = xy[i] * t.scale - t.offset_x;
    out[i] = t.flip ? t.width - x : x;
    out[i + 1] = xy[i + 1] * t.scale - t.offset_y;
  }
  return out;
}

namespace {

std::vector<std::vector<double>> moved_polygons(const ResizeCrop& t, const lvis::Annotation& annotation) {
  std::vector<std::vector<double>> parts;
  for (const auto& polygon : annotation.polygons) parts.push_back(apply_to_polygon(t, polygon));
  return parts;
}

/// The object with its box and without a mask; nothing where no box is left.
std::optional<SampleObject> box_of(const ResizeCrop& t, const lvis::Annotation& annotation, std::int64_t cls) {
  constexpr float kLeastSide = 1e-5F;  // detectron2's filter_empty_instances
  SampleObject out;
  out.cls = cls;
  const auto box = apply_to_box(t, annotation.box);
  for (std::size_t i = 0; i < 4; ++i) out.box[i] = static_cast<float>(box[i]);
  if (!(out.box[2] - out.box[0] > kLeastSide && out.box[3] - out.box[1] > kLeastSide)) return std::nullopt;
  return out;
}

}  // namespace

std::optional<SampleObject> apply_to_annotation(const ResizeCrop& t, const lvis::Annotation& annotation,
                                                std::int64_t cls) {
  auto out = box_of(t, annotation, cls);
  if (!out) return std::nullopt;
  if (!annotation.rle.counts.empty()) {
    image::Image bitmap(static_cast<int>(annotation.rle.height), static_cast<int>(annotation.rle.width), 1);
    bitmap.pixels = mask::decode(annotation.rle);
    out->mask = box_mask(apply_to_mask(t, bitmap));
  } else if (!annotation.polygons.empty()) {
    out->mask = box_mask(mask::from_polygons(moved_polygons(t, annotation), t.height, t.width));
  }
  if (out->mask.empty()) return std::nullopt;
  return out;
}

std::optional<SampleObject> apply_to_polygons(const ResizeCrop& t, const lvis::Annotation& annotation,
                                              std::int64_t cls) {
  auto out = box_of(t, annotation, cls);
  if (!out || annotation.polygons.empty()) return std::nullopt;
  out->polygons = moved_polygons(t, annotation);
  return out;
}

}  // namespace divergen::stages
