#include "lvis/evaluator.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <unordered_set>

#include "base/error.hpp"

namespace divergen::lvis {
namespace {

constexpr std::size_t kThresholds = 10, kRecalls = 101, kAreas = 4;
constexpr std::size_t kMaxDetections = 300;

/// numpy.linspace(0.5, 0.95, 10): start + k·step, the last one exact (rule 14).
std::array<double, kThresholds> iou_thresholds() {
  std::array<double, kThresholds> out{};
  const double step = (0.95 - 0.5) / 9;
  for (std::size_t k = 0; k < kThresholds; ++k) out[k] = static_cast<double>(k) * step + 0.5;
  out.back() = 0.95;
  return out;
}

std::array<double, kRecalls> recall_thresholds() {
  std::array<double, kRecalls> out{};
  for (std::size_t k = 0; k < kRecalls; ++k) out[k] = static_cast<double>(k) * 0.01;
  out.back() = 1.0;
  return out;
}

struct AreaRange {
  double low, high;
};
constexpr AreaRange kAreaRanges[kAreas] = {
    {0, 1e10}, {0, 32.0 * 32.0}, {32.0 * 32.0, 96.0 * 96.0}, {96.0 * 96.0, 1e10}};

/// Rule 1 and 3: images in order of first appearance; only those above the limit are sorted and cut.
std::vector<Detection> cut_to_limit(std::vector<Detection> detections) {
  std::vector<std::int64_t> order;
  std::unordered_map<std::int64_t, std::vector<std::size_t>> by_image;
  for (std::size_t i = 0; i < detections.size(); ++i) {
    auto& list = by_image[detections[i].image_id];
    if (list.empty()) order.push_back(detections[i].image_id);
    list.push_back(i);
  }
  std::vector<Detection> out;
  out.reserve(detections.size());
  for (const std::int64_t image : order) {
    auto& list = by_image[image];
    if (list.size() > kMaxDetections) {
      std::stable_sort(list.begin(), list.end(),
                       [&](std::size_t a, std::size_t b) { return detections[a].score > detections[b].score; });
      list.resize(kMaxDetections);
    }
    for (const std::size_t i : list) out.push_back(std::move(detections[i]));
  }
  return out;
}

double box_iou(const std::array<double, 4>& d, const std::array<double, 4>& g) {
  const double w = std::fmin(d[2] + d[0], g[2] + g[0]) - std::fmax(d[0], g[0]);
  if (w <= 0) return 0;
  const double h = std::fmin(d[3] + d[1], g[3] + g[1]) - std::fmax(d[1], g[1]);
  if (h <= 0) return 0;
  const double i = w * h;
  return i / (d[2] * d[3] + g[2] * g[3] - i);
}

struct Truth {
  const Annotation* annotation = nullptr;
  mask::Rle rle;
  std::array<double, 4> box{};
};

/// One image and category.
struct Cell {
  std::vector<Truth> truths;
  std::vector<const Detection*> detections;
};

/// What a detection turned out to be, for every area and threshold.
struct Verdict {
  double score = 0;
  std::array<std::uint16_t, kAreas> matched{}, ignored{};  // bit k: threshold k
};

struct CategoryResult {
  std::vector<Verdict> verdicts;  // images in id order, detections by score within an image
  std::array<std::int64_t, kAreas> positives{};
};

class Matcher {
 public:
  Matcher(const Dataset& truth, IouType type) : truth_(truth), type_(type), thresholds_(iou_thresholds()) {}

  void match(Cell& cell, const ImageRecord& image, std::int64_t category, CategoryResult& out) const {
    // numpy's sort puts NaN last.
    std::stable_sort(cell.detections.begin(), cell.detections.end(), [](const Detection* a, const Detection* b) {
      if (std::isnan(b->score)) return !std::isnan(a->score);
      return a->score > b->score;
    });
    const auto ious = all_ious(cell);
    const bool partial =
        std::find(image.not_exhaustive.begin(), image.not_exhaustive.end(), category) != image.not_exhaustive.end();
    std::vector<Verdict> verdicts(cell.detections.size());
    for (std::size_t d = 0; d < verdicts.size(); ++d) verdicts[d].score = cell.detections[d]->score;
    for (std::size_t area = 0; area < kAreas; ++area) match_area(cell, ious, area, partial, verdicts, out);
    out.verdicts.insert(out.verdicts.end(), verdicts.begin(), verdicts.end());
  }

 private:
  std::vector<std::vector<double>> all_ious(const Cell& cell) const {
    std::vector<std::vector<double>> out(cell.detections.size(), std::vector<double>(cell.truths.size()));
    for (std::size_t d = 0; d < cell.detections.size(); ++d)
      for (std::size_t g = 0; g < cell.truths.size(); ++g) {
        if (type_ == IouType::Box) {
          out[d][g] = box_iou(cell.detections[d]->box, cell.truths[g].annotation->box);
        } else {
          const auto& rle = cell.detections[d]->rle;
          const bool touch = box_iou(mask::bounding_box(rle), cell.truths[g].box) > 0;
          out[d][g] = touch ? mask::iou(rle, cell.truths[g].rle) : 0;
        }
      }
    return out;
  }

  void match_area(const Cell& cell, const std::vector<std::vector<double>>& ious, std::size_t area, bool partial,
                  std::vector<Verdict>& verdicts, CategoryResult& out) const {
    const AreaRange range = kAreaRanges[area];
    const std::size_t n = cell.truths.size();
    std::vector<char> ignored(n);
    std::vector<std::size_t> order(n);  // rule 8: ignored ones last, otherwise in order
    for (std::size_t g = 0; g < n; ++g) {
      const Annotation& a = *cell.truths[g].annotation;
      ignored[g] = a.ignore || a.area < range.low || a.area > range.high;
      if (!ignored[g]) ++out.positives[area];
    }
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return ignored[a] < ignored[b]; });
    for (std::size_t t = 0; t < kThresholds; ++t) {
      const auto bit = static_cast<std::uint16_t>(1u << t);
      std::vector<char> taken(n);
      for (std::size_t d = 0; d < verdicts.size(); ++d) {
        double best = std::min(thresholds_[t], 1 - 1e-10);
        std::optional<std::size_t> match;
        for (const std::size_t g : order) {
          if (taken[g]) continue;
          if (match && !ignored[*match] && ignored[g]) break;
          if (ious[d][g] < best) continue;  // rule 9: of equal overlaps the last wins
          best = ious[d][g];
          match = g;
        }
        if (match) {
          // Rule 10: an annotation of id 0 stays taken, and its detection counts as unmatched.
          if (cell.truths[*match].annotation->id != 0) verdicts[d].matched[area] |= bit;
          taken[*match] = 1;
          if (ignored[*match]) verdicts[d].ignored[area] |= bit;
        }
        const bool matched = (verdicts[d].matched[area] & bit) != 0;
        const double size = cell.detections[d]->area;
        if (!matched && (size < range.low || size > range.high || partial))
          verdicts[d].ignored[area] |= bit;  // rule 11
      }
    }
  }

  const Dataset& truth_;
  IouType type_;
  std::array<double, kThresholds> thresholds_;
};

/// numpy's pairwise summation: eight accumulators, blocks of 128, halves rounded down to a multiple of eight.
double pairwise_sum(const double* a, std::size_t n) {
  if (n < 8) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += a[i];
    return sum;
  }
  if (n <= 128) {
    double r[8];
    for (std::size_t k = 0; k < 8; ++k) r[k] = a[k];
    std::size_t i = 8;
    for (; i + 8 <= n; i += 8)
      for (std::size_t k = 0; k < 8; ++k) r[k] += a[i + k];
    double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    for (; i < n; ++i) sum += a[i];
    return sum;
  }
  std::size_t half = n / 2;
  half -= half % 8;
  return pairwise_sum(a, half) + pairwise_sum(a + half, n - half);
}

double mean_of_present(std::vector<double>& values) {
  values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return !(v > -1); }), values.end());
  return values.empty() ? -1 : pairwise_sum(values.data(), values.size()) / static_cast<double>(values.size());
}

class Accumulator {
 public:
  explicit Accumulator(std::size_t categories)
      : categories_(categories),
        precision_(kThresholds * kRecalls * categories * kAreas, -1),
        recall_(kThresholds * categories * kAreas, -1) {}

  void add(std::size_t category, CategoryResult& result) {
    std::stable_sort(result.verdicts.begin(), result.verdicts.end(), [](const Verdict& a, const Verdict& b) {
      if (std::isnan(b.score)) return !std::isnan(a.score);
      return a.score > b.score;
    });
    for (std::size_t area = 0; area < kAreas; ++area)
      if (result.positives[area] > 0)
        for (std::size_t t = 0; t < kThresholds; ++t) fill(category, area, t, result);
  }

  Evaluation finish(const Dataset& truth) && {
    Evaluation out;
    std::vector<std::size_t> all(categories_);
    std::iota(all.begin(), all.end(), std::size_t{0});
    const auto group = [&](const char* frequency) {
      std::vector<std::size_t> some;
      for (const std::size_t k : all)
        if (truth.categories[k].frequency == frequency) some.push_back(k);
      return some;
    };
    const auto half = std::optional<std::size_t>(0), three_quarters = std::optional<std::size_t>(5);
    auto& v = out.summary.values;
    v = {mean_precision(all, 0, {}),
         mean_precision(all, 0, half),
         mean_precision(all, 0, three_quarters),
         mean_precision(all, 1, {}),
         mean_precision(all, 2, {}),
         mean_precision(all, 3, {}),
         mean_precision(group("r"), 0, {}),
         mean_precision(group("c"), 0, {}),
         mean_precision(group("f"), 0, {}),
         mean_recall(0),
         mean_recall(1),
         mean_recall(2),
         mean_recall(3)};
    for (const std::size_t k : all) out.category_ap[truth.categories[k].id] = mean_precision({k}, 0, {});
    out.precision = std::move(precision_);
    out.recall = std::move(recall_);
    return out;
  }

 private:
  void fill(std::size_t category, std::size_t area, std::size_t t, const CategoryResult& result) {
    static const std::array<double, kRecalls> recalls = recall_thresholds();
    const auto bit = static_cast<std::uint16_t>(1u << t);
    std::vector<double> rc, pr;
    double tp = 0, fp = 0;
    for (const Verdict& v : result.verdicts) {
      const bool matched = (v.matched[area] & bit) != 0, ignored = (v.ignored[area] & bit) != 0;
      if (!ignored) (matched ? tp : fp) += 1;
      rc.push_back(tp / static_cast<double>(result.positives[area]));
      pr.push_back(tp / ((fp + tp) + 0x1p-52));  // rule 13: numpy.spacing(1) is added as written
    }
    recall_[(t * categories_ + category) * kAreas + area] = rc.empty() ? 0 : rc.back();
    for (std::size_t i = pr.size(); i > 1; --i) pr[i - 2] = std::max(pr[i - 2], pr[i - 1]);
    for (std::size_t r = 0; r < kRecalls; ++r) {
      const auto at = static_cast<std::size_t>(std::lower_bound(rc.begin(), rc.end(), recalls[r]) - rc.begin());
      precision_[((t * kRecalls + r) * categories_ + category) * kAreas + area] = at < pr.size() ? pr[at] : 0;
    }
  }

  double mean_precision(const std::vector<std::size_t>& categories, std::size_t area,
                        std::optional<std::size_t> threshold) const {
    std::vector<double> values;
    for (std::size_t t = threshold.value_or(0); t < (threshold ? *threshold + 1 : kThresholds); ++t)
      for (std::size_t r = 0; r < kRecalls; ++r)
        for (const std::size_t k : categories)
          values.push_back(precision_[((t * kRecalls + r) * categories_ + k) * kAreas + area]);
    return mean_of_present(values);
  }
  double mean_recall(std::size_t area) const {
    std::vector<double> values;
    for (std::size_t t = 0; t < kThresholds; ++t)
      for (std::size_t k = 0; k < categories_; ++k) values.push_back(recall_[(t * categories_ + k) * kAreas + area]);
    return mean_of_present(values);
  }

  std::size_t categories_;
  std::vector<double> precision_, recall_;
};

void check_truth(const Dataset& truth) {
  for (const Category& c : truth.categories)
    if (c.frequency != "r" && c.frequency != "c" && c.frequency != "f")
      fail(ErrorKind::Data, {"the ground truth is not LVIS", cat("category ", c.id, ", field 'frequency'"),
                             cat("'", c.frequency, "' is not r, c or f"), "name an LVIS v1 file"});
  for (const ImageRecord& image : truth.images)
    if (!image.has_federated)
      fail(ErrorKind::Data, {"the ground truth is not LVIS", cat("image ", image.id),
                             "it has no neg_category_ids or not_exhaustive_category_ids", "name an LVIS v1 file"});
}

}  // namespace

double Summary::operator[](std::string_view name) const {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (name == kNames[i]) return values[i];
  check_failed("a known summary", std::string(name));
}

Evaluation evaluate(const Dataset& truth, std::vector<Detection> given, IouType type) {
  check_truth(truth);
  const std::vector<Detection> detections = cut_to_limit(std::move(given));
  const auto has_size = [](double area) {
    return area > 0 && area < std::numeric_limits<double>::infinity();
  };  // rule 4

  std::vector<std::size_t> image_order(truth.images.size());
  std::iota(image_order.begin(), image_order.end(), std::size_t{0});
  std::sort(image_order.begin(), image_order.end(),
            [&](std::size_t a, std::size_t b) { return truth.images[a].id < truth.images[b].id; });
  std::vector<std::size_t> rank(truth.images.size());
  for (std::size_t i = 0; i < image_order.size(); ++i) rank[image_order[i]] = i;

  std::vector<std::map<std::size_t, Cell>> cells(truth.categories.size());  // by rank of the image
  // Rule 5: annotations are fetched by id, so a repeated id gives its last annotation again.
  std::unordered_map<std::int64_t, const Annotation*> by_id;
  for (const Annotation& a : truth.annotations) by_id[a.id] = &a;
  for (const Annotation& listed : truth.annotations) {
    if (!has_size(listed.area) || !truth.category_index.contains(listed.category_id)) continue;
    const Annotation& a = *by_id.at(listed.id);
    const auto category = truth.category_index.find(a.category_id);
    if (category == truth.category_index.end()) continue;
    Truth entry{&a, {}, {}};
    if (type == IouType::Mask) {
      entry.rle = truth.mask_of(a);
      entry.box = mask::bounding_box(entry.rle);
    }
    cells[category->second][rank[truth.image_index.at(a.image_id)]].truths.push_back(std::move(entry));
  }
  for (const Detection& d : detections) {
    const auto image = truth.image_index.find(d.image_id);
    if (image == truth.image_index.end())
      fail(ErrorKind::Data, {"the results do not belong to the ground truth", cat("image ", d.image_id),
                             "the ground truth has no such image", "name the results of this data set"});
    const auto category = truth.category_index.find(d.category_id);
    if (category == truth.category_index.end() || !has_size(d.area)) continue;
    auto& of_category = cells[category->second];
    const std::size_t r = rank[image->second];
    const auto cell = of_category.find(r);
    const auto& negative = truth.images[image->second].negative;
    const bool positive = cell != of_category.end() && !cell->second.truths.empty();
    // Rule 6: only categories that were looked for in the image count.
    if (!positive && std::find(negative.begin(), negative.end(), d.category_id) == negative.end()) continue;
    of_category[r].detections.push_back(&d);
  }

  const Matcher matcher(truth, type);
  Accumulator accumulator(truth.categories.size());
  for (std::size_t k = 0; k < cells.size(); ++k) {
    CategoryResult result;
    for (auto& [r, cell] : cells[k]) matcher.match(cell, truth.images[image_order[r]], truth.categories[k].id, result);
    accumulator.add(k, result);
  }
  return std::move(accumulator).finish(truth);
}

}  // namespace divergen::lvis
