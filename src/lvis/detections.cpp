#include "lvis/detections.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace divergen::lvis {
namespace {

constexpr double kLeastIou = 0.5;  // the lowest threshold of both protocols

/// A bound of the IoU of masks, from boxes and areas: the overlap is at most that of the boxes and each area.
/// `truth_area` 0: unknown, any.
double most_iou(const mask::Spans& d, const std::array<double, 4>& bounds, double truth_area) {
  const double w = std::min<double>(d.x1, bounds[2]) - std::max<double>(d.x0, bounds[0]);
  const double h = std::min<double>(d.y1, bounds[3]) - std::max<double>(d.y0, bounds[1]);
  if (w <= 0 || h <= 0) return 0;
  const double area = static_cast<double>(d.area);
  double both = std::min(w * h, area);
  if (truth_area == 0) return both / area;
  both = std::min(both, truth_area);
  return both / (area + truth_area - both);
}

}  // namespace

double box_iou(const std::array<double, 4>& d, const std::array<double, 4>& g, bool crowd) {
  const double w = std::fmin(d[2] + d[0], g[2] + g[0]) - std::fmax(d[0], g[0]);
  if (w <= 0) return 0;
  const double h = std::fmin(d[3] + d[1], g[3] + g[1]) - std::fmax(d[1], g[1]);
  if (h <= 0) return 0;
  const double i = w * h;
  const double u = crowd ? d[2] * d[3] : d[2] * d[3] + g[2] * g[3] - i;
  return i / u;
}

Collector::Collector(const TruthTable& truth)
    : truth_(truth),
      default_(truth.protocol() == Protocol::Lvis ? kUnverified : Place::kNone),
      cell_of_(truth.categories(), default_) {}

Collector::Place Collector::place(std::size_t image, std::int64_t category_id) {
  Place out;
  out.image = static_cast<std::uint32_t>(image);
  const auto* category = truth_.dataset().category_index.find(category_id);
  if (category == nullptr) return out;
  out.category = static_cast<std::uint32_t>(category->second);
  if (image != image_) {
    image_ = image;
    for (const std::uint32_t c : touched_) cell_of_[c] = default_;
    touched_.clear();
    const auto set = [&](std::size_t c, std::uint32_t value) {
      cell_of_[c] = value;
      touched_.push_back(static_cast<std::uint32_t>(c));
    };
    if (truth_.protocol() == Protocol::Lvis)
      for (const std::int32_t id : truth_.dataset().images.negative(image))
        if (const auto* found = truth_.dataset().category_index.find(id)) set(found->second, Place::kNone);
    auto cell = static_cast<std::uint32_t>(truth_.first_cell_of(image));
    for (const TruthTable::Cell& c : truth_.cells_of(image)) set(c.category, cell++);
  }
  const std::uint32_t cell = cell_of_[out.category];
  out.counts = cell != kUnverified;
  if (out.counts) out.cell = cell;
  return out;
}

/// False when it takes no part.
bool Collector::put(Batch& to, const Place& place, double score, double area) const {
  // Rule 4, of LVIS alone.
  const bool has_size = area > 0 && area < std::numeric_limits<double>::infinity();
  if (!place.counts || (truth_.protocol() == Protocol::Lvis && !has_size)) {
    drop(to, place, score);
    return false;
  }
  std::uint32_t out = outside_ranges(area);
  if (truth_.protocol() == Protocol::Lvis) {  // rule 11
    const auto partial = truth_.dataset().images.not_exhaustive(place.image);
    const auto id = truth_.dataset().categories[place.category].id;
    if (std::find(partial.begin(), partial.end(), id) != partial.end()) out = 0xF;
  }
  to.entries.push_back({score, place.image, place.category << 4 | out});
  return true;
}

void Collector::add(Batch& to, const Place& place, double score, double area, const std::array<double, 4>& box) const {
  if (!put(to, place, score, area) || place.cell == Place::kNone) return;
  const auto entry = static_cast<std::uint32_t>(to.entries.size() - 1);
  const TruthTable::Cell& cell = truth_.cells()[place.cell];
  for (std::uint32_t i = cell.first; i < cell.first + cell.count; ++i) {
    const TruthTable::Truth& truth = truth_.truths()[i];
    const double iou = box_iou(box, truth.box, truth.is_crowd);
    if (iou >= kLeastIou) to.candidates.push_back({entry, i, iou});
  }
}

void Collector::add(Batch& to, const Place& place, double score, double area, const mask::Spans& mask) const {
  if (!put(to, place, score, area) || place.cell == Place::kNone || mask.area == 0) return;
  const auto entry = static_cast<std::uint32_t>(to.entries.size() - 1);
  const TruthTable::Cell& cell = truth_.cells()[place.cell];
  for (std::uint32_t i = cell.first; i < cell.first + cell.count; ++i) {
    const bool is_crowd = truth_.truths()[i].is_crowd;
    // A little less than the threshold: the bounds are computed in doubles too.
    constexpr double kHopeless = kLeastIou * (1 - 1e-9);
    if (most_iou(mask, truth_.bounds(i), 0) < kHopeless) continue;
    const mask::Spans& other = truth_.mask(i);
    if (other.area == 0) continue;
    const std::array<double, 4> tight{static_cast<double>(other.x0), static_cast<double>(other.y0),
                                      static_cast<double>(other.x1), static_cast<double>(other.y1)};
    if (!is_crowd && most_iou(mask, tight, static_cast<double>(other.area)) < kHopeless) continue;
    const double iou = mask::iou(mask, other, is_crowd);
    if (iou >= kLeastIou) to.candidates.push_back({entry, i, iou});
  }
}

}  // namespace divergen::lvis
