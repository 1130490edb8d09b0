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

using Size = InstanceSource::Size;

/// Side lengths from the category's area statistics (semantics.md §7.5), of a picture whose own size is `picture`.
/// `normal` is drawn before, because it is also for pictures that cannot be cut out.
Rejection size_by_area(Size picture, double normal, const std::array<double, 2>& statistics, const image::Image& canvas,
                       Draws& draws, Size& size) {
  const double h = canvas.height, w = canvas.width;
  const double wanted = statistics[0] + normal * statistics[1];
  const double share = std::min(std::max(wanted, kLeastSide / h), kLargestShare);
  const double aspect =
      static_cast<double>(picture.width) / picture.height * draws.uniform("aspect_jitter", kAspectLow, kAspectHigh);
  const double width = std::sqrt(aspect * (share * share * h * w));
  size = {static_cast<int>(width / aspect), static_cast<int>(width)};
  const bool fits = size.width >= kLeastTarget && size.height >= kLeastTarget && size.width < canvas.width &&
                    size.height < canvas.height;
  return fits ? Rejection::None : Rejection::SideLimits;
}

Rejection size_by_scale(Size picture, const image::Image& canvas, const PasteRules& rules, Draws& draws, Size& size) {
  const double scale = draws.uniform("random_scale", rules.random_scale_low, rules.random_scale_high);
  size = {static_cast<int>(picture.height * scale), static_cast<int>(picture.width * scale)};
  if (size.height < rules.random_scale_min_size || size.width < rules.random_scale_min_size) return Rejection::TooSmall;
  return size.height >= canvas.height || size.width >= canvas.width ? Rejection::TooLarge : Rejection::None;
}

struct Loaded {
  image::Image rgba;
  Rejection rejection = Rejection::None;
};

/// Chosen instances on their way to the canvas.
class Loader {
 public:
  Loader(const InstanceSource& source, const AreaStatistics& statistics, const PasteRules& rules,
         const image::Image& canvas, Draws& draws, StageClock& clock)
      : source_(source), statistics_(statistics), rules_(rules), canvas_(canvas), draws_(draws), clock_(clock) {}

  /// Size, resize and flip of one instance; a rejected one draws no further.
  Loaded load(std::size_t index, std::size_t instance) const {
    InstanceSource::Instance stored;
    const std::optional<Size> known = source_.size(index, instance);
    if (!known) {
      stored = source_.load(index, instance);
      clock_.lap(Lap::Instances);
      if (stored.rgba == nullptr) return {{}, Rejection::Unreadable};
    }
    const auto found = statistics_.find(source_.cls(index));
    const bool by_area = !rules_.random_scale && found != statistics_.end();
    const double normal = by_area ? draws_.normal("size_normal") : 0;
    image::Image storage;
    if (by_area && !known && !stored.is_cut_out) {  // the reference cuts out in this branch alone
      storage = *stored.rgba;
      if (const Rejection why = cut_out(storage, rules_.use_largest_part); why != Rejection::None) return {{}, why};
    }
    const image::Image* picture = storage.empty() ? stored.rgba.get() : &storage;
    const Size own = known ? *known : Size{picture->height, picture->width};
    Size size;
    const Rejection rejection = by_area ? size_by_area(own, normal, found->second, canvas_, draws_, size)
                                        : size_by_scale(own, canvas_, rules_, draws_, size);
    if (rejection != Rejection::None) return {{}, rejection};
    if (known) {
      stored = source_.load(index, instance);
      clock_.lap(Lap::Instances);
      if (stored.rgba == nullptr) return {{}, Rejection::Unreadable};
      picture = stored.rgba.get();
    }
    Loaded out{image::resize_linear(*picture, size.height, size.width), Rejection::None};
    if (draws_.uniform("flip", 0, 1) < 0.5) out.rgba = image::flip_horizontal(out.rgba);
    clock_.lap(Lap::Scale);
    return out;
  }

 private:
  const InstanceSource& source_;
  const AreaStatistics& statistics_;
  const PasteRules& rules_;
  const image::Image& canvas_;
  Draws& draws_;
  StageClock& clock_;
};

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
  kept.reserve(objects.size());
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

InstanceDraw instance_draw_of(const std::string& name) {
  if (name == "category") return InstanceDraw::Category;
  if (name == "instance") return InstanceDraw::Instance;
  if (name == "image") return InstanceDraw::Image;
  fail(ErrorKind::Config, {"there is no such way to draw instances", name, "", "use category, instance or image"});
}

namespace {

/// Indices of classes of the source, and of instances of theirs.
using Choices = std::vector<std::pair<std::size_t, std::size_t>>;

Choices choose_of_classes(const InstanceSource& source, const std::vector<std::size_t>& classes, std::int64_t count,
                          Draws& draws) {
  Choices out;
  for (std::int64_t i = 0; i < count && !classes.empty(); ++i) {
    const auto at = static_cast<std::size_t>(draws.integer("pool_class_index", 0, static_cast<double>(classes.size())));
    const std::size_t index = classes[at];
    const auto instance = static_cast<std::size_t>(
        draws.integer("instance_index_in_class", 0, static_cast<double>(source.instances(index))));
    out.emplace_back(index, instance);
  }
  return out;
}

Choices choose_of_all(const InstanceSource& source, std::int64_t count, Draws& draws) {
  std::vector<std::size_t> ends;  // of each class, in a list of all instances
  for (std::size_t i = 0; i < source.classes(); ++i)
    ends.push_back((ends.empty() ? 0 : ends.back()) + source.instances(i));
  Choices out;
  for (std::int64_t i = 0; i < count && !ends.empty(); ++i) {
    const auto at = static_cast<std::size_t>(draws.integer("instance_index", 0, static_cast<double>(ends.back())));
    const auto index = static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), at) - ends.begin());
    out.emplace_back(index, at - (index == 0 ? 0 : ends[index - 1]));
  }
  return out;
}

Choices choose_instances(const Sample& sample, const InstanceSource& source, const PasteRules& rules, Draws& draws) {
  const auto count = draws.integer("num_instances", 0, static_cast<double>(rules.max_instances));
  if (rules.draw == InstanceDraw::Instance) return choose_of_all(source, count, draws);
  std::vector<std::size_t> classes;
  for (std::size_t i = 0; i < source.classes(); ++i)
    if (rules.draw == InstanceDraw::Category ||
        std::any_of(sample.objects.begin(), sample.objects.end(),
                    [&](const SampleObject& object) { return object.cls == source.cls(i); }))
      classes.push_back(i);
  return choose_of_classes(source, classes, count, draws);
}

}  // namespace

void paste_instances(Sample& sample, const InstanceSource& source, const AreaStatistics& area_statistics,
                     const PasteRules& rules, Draws& draws, StageClock& clock, PasteTrace* trace) {
  const Choices chosen = choose_instances(sample, source, rules, draws);
  PasteTrace own;
  auto& items = (trace != nullptr ? *trace : own).items;
  const std::size_t first = items.size();
  const Loader loader(source, area_statistics, rules, sample.rgb, draws, clock);
  for (const auto& [index, instance] : chosen) {
    Loaded loaded = loader.load(index, instance);
    PasteTrace::Item& item = items.emplace_back();
    item.cls = source.cls(index);
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
  clock.lap(Lap::Paste);
}

}  // namespace divergen::stages
