#include "lvis/truth_table.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.hpp"

namespace divergen::lvis {
namespace {

/// Rule 5: annotations are fetched by id, so a repeated id gives its last annotation again. Empty when no id is
/// repeated.
std::vector<std::uint32_t> last_of_each_id(std::span<const std::int64_t> ids) {
  std::vector<std::uint32_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0U);
  if (std::is_sorted(ids.begin(), ids.end(), std::less_equal<>())) return {};
  // Ids are nearly always 1 .. n in some order: a bit each tells.
  const auto [low, high] = std::minmax_element(ids.begin(), ids.end());
  if (static_cast<std::uint64_t>(*high) - static_cast<std::uint64_t>(*low) < 64 * ids.size()) {
    std::vector<bool> seen(static_cast<std::size_t>(*high - *low) + 1);
    bool is_repeated = false;
    for (const std::int64_t id : ids) {
      is_repeated |= seen[static_cast<std::size_t>(id - *low)];
      seen[static_cast<std::size_t>(id - *low)] = true;
    }
    if (!is_repeated) return {};
  }
  const IdIndex last(ids);
  if (last.size() == ids.size()) return {};
  for (std::size_t i = 0; i < ids.size(); ++i) order[i] = static_cast<std::uint32_t>(last.at(ids[i]));
  return order;
}

}  // namespace

std::uint8_t outside_ranges(double area) {
  unsigned out = 0;
  for (std::size_t a = 0; a < kAreas; ++a)
    out |= (area < kAreaRanges[a].low || area > kAreaRanges[a].high ? 1U : 0U) << a;
  return static_cast<std::uint8_t>(out);
}

TruthTable::TruthTable(const Dataset& dataset, IouType type, Protocol protocol)
    : dataset_(dataset), type_(type), protocol_(protocol), rank_(dataset.images.size()) {
  if (protocol == Protocol::Lvis) check_lists();
  const auto ids = dataset.images.columns().id.span();
  std::vector<std::uint32_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return ids[a] < ids[b]; });
  for (std::size_t i = 0; i < order.size(); ++i) rank_[order[i]] = static_cast<std::uint32_t>(i);
  gather();
  if (type == IouType::Mask) {
    masks_ = std::make_unique<MaskSlot[]>(truths_.size());
    bounds_.reserve(truths_.size());
    for (const Truth& truth : truths_) bounds_.push_back(bounds_of(truth.annotation));
  }
}

void TruthTable::check_lists() const {
  for (const Category& c : dataset_.categories)
    if (c.frequency != "r" && c.frequency != "c" && c.frequency != "f")
      fail(ErrorKind::Data, {"the ground truth is not LVIS", cat("category ", c.id, ", field 'frequency'"),
                             cat("'", c.frequency, "' is not r, c or f"), "name an LVIS v1 file"});
  const auto& columns = dataset_.images.columns();
  for (std::size_t i = 0; i < columns.id.size(); ++i)
    if (columns.has_federated[i] == 0)
      fail(ErrorKind::Data, {"the ground truth is not LVIS", cat("image ", columns.id[i]),
                             "it has no neg_category_ids or not_exhaustive_category_ids", "name an LVIS v1 file"});
}

void TruthTable::gather() {
  const Annotations::Columns& c = dataset_.annotations.columns();
  const auto last = last_of_each_id(c.id.span());
  struct Place {
    std::uint32_t image, category, annotation;
  };
  std::vector<Place> places;
  places.reserve(c.id.size());
  for (std::size_t i = 0; i < c.id.size(); ++i) {
    // Rule 4, of LVIS alone: what has no area takes no part.
    if (protocol_ == Protocol::Lvis && !(c.area[i] > 0 && c.area[i] < std::numeric_limits<double>::infinity()))
      continue;
    if (!dataset_.category_index.contains(c.category_id[i])) continue;
    const std::uint32_t used = last.empty() ? static_cast<std::uint32_t>(i) : last[i];
    const auto* category = dataset_.category_index.find(c.category_id[used]);
    if (category == nullptr) continue;
    places.push_back({static_cast<std::uint32_t>(dataset_.image_index.at(c.image_id[used])),
                      static_cast<std::uint32_t>(category->second), used});
  }
  // By image, then by category, in file order within.
  std::vector<std::uint32_t> begin(dataset_.images.size() + 1);
  for (const Place& p : places) ++begin[p.image + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<Place> sorted(places.size());
  std::vector<std::uint32_t> next = begin;
  for (const Place& p : places) sorted[next[p.image]++] = p;

  truths_.resize(sorted.size());
  positives_.resize(categories());
  cell_begin_.reserve(dataset_.images.size() + 1);
  for (std::size_t image = 0; image < dataset_.images.size(); ++image) {
    cell_begin_.push_back(static_cast<std::uint32_t>(cells_.size()));
    const auto first = sorted.begin() + begin[image], end = sorted.begin() + begin[image + 1];
    std::stable_sort(first, end, [](const Place& a, const Place& b) { return a.category < b.category; });
    for (auto p = first; p != end; ++p) {
      const auto at = static_cast<std::uint32_t>(p - sorted.begin());
      if (p == first || p->category != cells_.back().category) cells_.push_back({p->category, at, 0});
      ++cells_.back().count;
      const std::uint8_t flags = c.flags[p->annotation];
      const bool is_crowd = (flags & Annotations::kCrowd) != 0;
      // LVIS never reads iscrowd; COCO's ignore is overwritten by it.
      const bool is_ignored = protocol_ == Protocol::Lvis ? (flags & Annotations::kIgnore) != 0 : is_crowd;
      Truth& truth = truths_[at];
      truth.box = c.box[p->annotation];
      truth.annotation = p->annotation;
      truth.ignored = is_ignored ? 0xF : outside_ranges(c.area[p->annotation]);
      truth.is_crowd = protocol_ == Protocol::Coco && is_crowd;
      truth.has_id_zero = c.id[p->annotation] == 0;
      for (std::size_t a = 0; a < kAreas; ++a) positives_[p->category][a] += (truth.ignored >> a & 1) == 0;
    }
  }
  cell_begin_.push_back(static_cast<std::uint32_t>(cells_.size()));
}

std::array<double, 4> TruthTable::bounds_of(std::size_t annotation) const {
  const Shapes& shapes = dataset_.annotations.columns().shapes;
  const double infinity = std::numeric_limits<double>::infinity();
  if (shapes.has_rle(annotation)) return {-infinity, -infinity, infinity, infinity};
  std::array<double, 4> out{infinity, infinity, -infinity, -infinity};
  thread_local std::vector<double> xy;
  for (std::size_t part = shapes.first_part(annotation); part < shapes.part_end[annotation]; ++part) {
    xy.clear();
    shapes.decode(part, xy);
    for (std::size_t i = 0; i + 1 < xy.size(); i += 2) {
      out[0] = std::min(out[0], xy[i]), out[2] = std::max(out[2], xy[i]);
      out[1] = std::min(out[1], xy[i + 1]), out[3] = std::max(out[3], xy[i + 1]);
    }
  }
  // The raster moves edges by less than a pixel.
  return {out[0] - 1, out[1] - 1, out[2] + 1, out[3] + 1};
}

const mask::Spans& TruthTable::mask(std::size_t truth) const {
  std::atomic<const mask::Spans*>& slot = masks_[truth].mask;
  if (const mask::Spans* there = slot.load(std::memory_order_acquire)) return *there;
  auto made = std::make_unique<mask::Spans>();
  to_spans(dataset_.mask_of(truths_[truth].annotation), *made);
  made->edges.shrink_to_fit();
  const mask::Spans* expected = nullptr;
  // Two threads may draw the same mask; the second one's is dropped.
  if (slot.compare_exchange_strong(expected, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *expected;
}

void TruthTable::release_masks() {
  if (!masks_) return;
  for (std::size_t i = 0; i < truths_.size(); ++i) delete masks_[i].mask.exchange(nullptr);
}

}  // namespace divergen::lvis
