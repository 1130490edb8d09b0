#include "stages/augment/paste.hpp"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.hpp"
#include "image/geometry.hpp"

namespace divergen::stages {
namespace {

// Constants of the reference's InstPool (semantics.md §7.5, §7.7).
constexpr double kLeastSide = 10, kLargestShare = 0.5;  // of sqrt(area share): 10 px over the canvas height, and 0.5
constexpr double kAspectLow = 0.8, kAspectHigh = 1.2;
constexpr int kLeastTarget = 5;  // px
constexpr int kAlphaThreshold = 128;
constexpr double kLeastPart = 0.01, kLargestPart = 1.0;  // share of the picture
constexpr float kBoxTolerance = 10;                      // px
constexpr std::int64_t kAreaTolerance = 300;             // px

/// The object of a picture whose alpha is its mask: largest part above the threshold, cropped to its box.
Rejection cut_out(image::Image& rgba, bool largest_part) {
  image::Image alpha(rgba.height, rgba.width, 1);
  for (std::size_t i = 0; i < alpha.pixels.size(); ++i) alpha.pixels[i] = rgba.pixels[4 * i + 3];
  BoxMask part;
  if (largest_part) {
    if (const auto found = image::largest_component(alpha, kAlphaThreshold)) part = box_mask(found->mask);
  } else {
    for (std::uint8_t& value : alpha.pixels) value = value > kAlphaThreshold;
    part = box_mask(alpha);
  }
  const double share = static_cast<double>(part.area()) / static_cast<double>(alpha.pixels.size());
  if (share <= kLeastPart || share >= kLargestPart) return Rejection::AreaShare;
  if (part.bits.height < 2 || part.bits.width < 2) return Rejection::ThinPart;
  rgba = image::crop(rgba, part.x, part.y, part.bits.width, part.bits.height);
  for (std::size_t i = 0; i < part.bits.pixels.size(); ++i) rgba.pixels[4 * i + 3] *= part.bits.pixels[i];
  return Rejection::None;
}

struct Size {
  int height = 0, width = 0;
};

/// Side lengths from the category's area statistics. `picture` moves on to its cut-out, kept in `storage`, where that
/// is still to be made; the normal is drawn before, also for pictures that are rejected then.
Rejection size_by_area(const image::Image*& picture, bool is_cut_out, image::Image& storage,
                       const std::array<double, 2>& statistics, const image::Image& canvas, const PasteRules& rules,
                       Draws& draws, Size& size) {
  const double h = canvas.height, w = canvas.width;
  const double wanted = statistics[0] + draws.normal("size_normal") * statistics[1];
  const double share = std::min(std::max(wanted, kLeastSide / h), kLargestShare);
  if (!is_cut_out) {
    storage = *picture;
    picture = &storage;
    if (const Rejection why = cut_out(storage, rules.use_largest_part); why != Rejection::None) return why;
  }
  const double aspect =
      static_cast<double>(picture->width) / picture->height * draws.uniform("aspect_jitter", kAspectLow, kAspectHigh);
  const double width = std::sqrt(aspect * (share * share * h * w));
  size = {static_cast<int>(width / aspect), static_cast<int>(width)};
  const bool fits = size.width >= kLeastTarget && size.height >= kLeastTarget && size.width < canvas.width &&
                    size.height < canvas.height;
  return fits ? Rejection::None : Rejection::SideLimits;
}

Rejection size_by_scale(const image::Image& picture, const image::Image& canvas, const PasteRules& rules, Draws& draws,
                        Size& size) {
  const double scale = draws.uniform("random_scale", rules.random_scale_low, rules.random_scale_high);
  size = {static_cast<int>(picture.height * scale), static_cast<int>(picture.width * scale)};
  if (size.height < rules.random_scale_min_size || size.width < rules.random_scale_min_size) return Rejection::TooSmall;
  return size.height >= canvas.height || size.width >= canvas.width ? Rejection::TooLarge : Rejection::None;
}

struct Loaded {
  image::Image rgba;
  Rejection rejection = Rejection::None;
};

/// Size, resize and flip of one instance; a rejected one draws no further.
Loaded load(const InstanceSource::Instance& stored, const std::array<double, 2>* statistics, const image::Image& canvas,
            const PasteRules& rules, Draws& draws) {
  if (stored.rgba == nullptr) return {{}, Rejection::Unreadable};
  const image::Image* picture = stored.rgba.get();
  image::Image storage;
  Size size;
  const Rejection rejection =
      statistics != nullptr ? size_by_area(picture, stored.is_cut_out, storage, *statistics, canvas, rules, draws, size)
                            : size_by_scale(*picture, canvas, rules, draws, size);
  if (rejection != Rejection::None) return {{}, rejection};
  Loaded out{image::resize_linear(*picture, size.height, size.width), Rejection::None};
  if (draws.uniform("flip", 0, 1) < 0.5) out.rgba = image::flip_horizontal(out.rgba);
  return out;
}

/// The pixels of a placed instance that lie on the canvas and are not wholly transparent.
BoxMask visible_mask(const image::Image& rgba, int x, int y, const image::Image& canvas) {
  const int x0 = std::max(0, -x), y0 = std::max(0, -y);
  const int x1 = std::min(rgba.width, canvas.width - x), y1 = std::min(rgba.height, canvas.height - y);
  if (x0 >= x1 || y0 >= y1) return {};
  image::Image bits(y1 - y0, x1 - x0, 1);
  for (int row = y0; row < y1; ++row)
    for (int column = x0; column < x1; ++column) *bits.at(row - y0, column - x0) = rgba.at(row, column)[3] > 0;
  return box_mask(bits, x + x0, y + y0);
}

/// Removes the pixels of `cover`; whether there were any.
bool subtract(BoxMask& mask, const BoxMask& cover) {
  const int x0 = std::max(mask.x, cover.x), x1 = std::min(mask.x + mask.bits.width, cover.x + cover.bits.width);
  const int y0 = std::max(mask.y, cover.y), y1 = std::min(mask.y + mask.bits.height, cover.y + cover.bits.height);
  if (x0 >= x1 || y0 >= y1) return false;
  std::uint8_t changed = 0;
  for (int y = y0; y < y1; ++y) {
    std::uint8_t* bits = mask.bits.at(y - mask.y, x0 - mask.x);
    const std::uint8_t* over = cover.bits.at(y - cover.y, x0 - cover.x);
    for (int i = 0; i < x1 - x0; ++i) {
      changed |= bits[i] & over[i];
      bits[i] &= static_cast<std::uint8_t>(~over[i]);
    }
  }
  if (changed != 0) mask = box_mask(mask.bits, mask.x, mask.y);
  return changed != 0;
}

}  // namespace

std::vector<bool> occlude(std::vector<SampleObject>& objects, const BoxMask& cover) {
  std::vector<bool> kept;
  std::size_t count = 0;
  for (SampleObject& object : objects) {
    subtract(object.mask, cover);
    const auto box = object.mask.box();
    bool is_near = true;
    for (std::size_t i = 0; i < 4; ++i) is_near = is_near && std::abs(box[i] - object.box[i]) <= kBoxTolerance;
    kept.push_back(is_near || object.mask.area() > kAreaTolerance);
    object.box = box;
    if (!kept.back()) continue;
    if (&objects[count] != &object) objects[count] = std::move(object);
    ++count;
  }
  objects.resize(count);
  return kept;
}

void paste_instances(Sample& sample, const InstanceSource& source, const AreaStatistics& area_statistics,
                     const PasteRules& rules, Draws& draws, PasteTrace* trace) {
  const auto count = draws.integer("num_instances", 0, static_cast<double>(rules.max_instances));
  if (source.classes() == 0) return;
  std::vector<std::pair<std::size_t, std::size_t>> chosen;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index =
        static_cast<std::size_t>(draws.integer("pool_class_index", 0, static_cast<double>(source.classes())));
    const auto instance = static_cast<std::size_t>(
        draws.integer("instance_index_in_class", 0, static_cast<double>(source.instances(index))));
    chosen.emplace_back(index, instance);
  }
  PasteTrace own;
  auto& items = (trace != nullptr ? *trace : own).items;
  const std::size_t first = items.size();
  for (const auto& [index, instance] : chosen) {
    const std::int64_t cls = source.cls(index);
    const auto statistics = area_statistics.find(cls);
    const bool by_area = !rules.random_scale && statistics != area_statistics.end();
    Loaded loaded =
        load(source.load(index, instance), by_area ? &statistics->second : nullptr, sample.rgb, rules, draws);
    PasteTrace::Item& item = items.emplace_back();
    item.cls = cls;
    item.rejection = loaded.rejection;
    item.height = loaded.rgba.height;
    item.width = loaded.rgba.width;
    item.rgba = std::move(loaded.rgba);
  }
  const std::span<PasteTrace::Item> fresh(items.begin() + static_cast<std::ptrdiff_t>(first), items.end());
  for (PasteTrace::Item& item : fresh) {
    if (item.rejection != Rejection::None) continue;
    const auto place = [&](const char* meaning, int side, int canvas) {
      const double middle = side / 2.0;
      return static_cast<int>(draws.integer(meaning, -middle, canvas - middle));
    };
    item.x = place("x0", item.width, sample.rgb.width);
    item.y = place("y0", item.height, sample.rgb.height);
  }
  for (PasteTrace::Item& item : fresh) {
    if (item.rejection != Rejection::None) continue;
    const Blend how = blend_of(rules.blend[draws.pick("cp_method", rules.blend)]);
    item.mask = visible_mask(item.rgba, item.x, item.y, sample.rgb);
    item.kept = occlude(sample.objects, item.mask);
    blend(sample.rgb, item.rgba, item.x, item.y, item.mask, how);
    sample.objects.push_back({item.mask.box(), item.cls, item.mask, 1});
  }
  if (rules.drop_empty) std::erase_if(sample.objects, [](const SampleObject& o) { return o.mask.empty(); });
}

}  // namespace divergen::stages
