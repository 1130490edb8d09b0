#include "stages/augment/self_copy.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "stages/augment/blend.hpp"
#include "stages/augment/paste.hpp"

namespace divergen::stages {
namespace {

void select_objects(Sample& source, const SelfCopyRules& rules, Draws& draws) {
  const auto n = static_cast<std::int64_t>(source.objects.size());
  const auto count = draws.integer("num_pasted", 0, static_cast<double>(std::min(n + 1, rules.max_objects)));
  const auto chosen = draws.choose("selected_inds", source.objects.size(), static_cast<std::size_t>(count));
  std::vector<SampleObject> objects;
  for (const std::size_t i : chosen) objects.push_back(std::move(source.objects[i]));
  source.objects = std::move(objects);
}

struct Size {
  int height = 0, width = 0;
};

Size furthest_corner(const Sample& sample) {
  float right = 0, lower = 0;
  for (const SampleObject& object : sample.objects) {
    right = std::max(right, object.box[2]);
    lower = std::max(lower, object.box[3]);
  }
  return {static_cast<int>(std::ceil(lower)), static_cast<int>(std::ceil(right))};
}

/// Cuts or pads with black at the right and lower side.
void fit_to(Sample& sample, Size size) {
  if (sample.rgb.height != size.height || sample.rgb.width != size.width) {
    image::Image out(size.height, size.width, 3);
    const auto row = static_cast<std::size_t>(std::min(size.width, sample.rgb.width)) * 3;
    for (int y = 0; y < std::min(size.height, sample.rgb.height) && row > 0; ++y)
      std::memcpy(out.at(y, 0), sample.rgb.at(y, 0), row);
    sample.rgb = std::move(out);
  }
  for (SampleObject& object : sample.objects)
    if (object.mask.x + object.mask.bits.width > size.width || object.mask.y + object.mask.bits.height > size.height)
      object.mask = box_mask(object.mask.on_canvas(size.height, size.width));
}

/// The pixels of all objects together, in the box that holds them.
BoxMask union_of(const Sample& sample) {
  int x0 = sample.rgb.width, y0 = sample.rgb.height, x1 = 0, y1 = 0;
  for (const SampleObject& object : sample.objects) {
    const BoxMask& mask = object.mask;
    if (mask.empty()) continue;
    x0 = std::min(x0, mask.x);
    y0 = std::min(y0, mask.y);
    x1 = std::max(x1, mask.x + mask.bits.width);
    y1 = std::max(y1, mask.y + mask.bits.height);
  }
  if (x0 >= x1 || y0 >= y1) return {};
  image::Image all(y1 - y0, x1 - x0, 1);
  for (const SampleObject& object : sample.objects) {
    const BoxMask& mask = object.mask;
    for (int y = 0; y < mask.bits.height; ++y) {
      std::uint8_t* to = all.at(mask.y + y - y0, mask.x - x0);
      const std::uint8_t* from = mask.bits.at(y, 0);
      for (int x = 0; x < mask.bits.width; ++x) to[x] |= from[x];
    }
  }
  return box_mask(std::move(all), x0, y0);
}

void merge(Sample& onto, Size onto_size, Sample source, Draws& draws) {
  static const std::vector<std::string> kMethods{"basic"};  // the reference allows no other here
  const Size reach = furthest_corner(source);
  const Size size{std::max(onto_size.height, reach.height), std::max(onto_size.width, reach.width)};
  fit_to(onto, size);
  fit_to(source, size);
  const BoxMask cover = union_of(source);
  occlude(onto.objects, cover);
  blend(onto.rgb, source.rgb, 0, 0, cover, blend_of(kMethods[draws.pick("cp_method", kMethods)]));
  for (SampleObject& object : source.objects) onto.objects.push_back(std::move(object));
}

}  // namespace

void self_copy(Sample& sample, std::vector<Sample> sources, const SelfCopyRules& rules, Draws& draws) {
  std::optional<Sample> all;
  for (Sample& source : sources) {
    if (rules.select) select_objects(source, rules, draws);
    if (source.objects.empty()) continue;
    if (!all) {
      all = std::move(source);
    } else {
      merge(*all, furthest_corner(*all), std::move(source), draws);
    }
  }
  if (!all) return;
  merge(sample, {sample.rgb.height, sample.rgb.width}, std::move(*all), draws);
  if (rules.drop_empty) std::erase_if(sample.objects, [](const SampleObject& o) { return o.mask.empty(); });
}

}  // namespace divergen::stages
