#include "lvis/matcher.hpp"

#include <algorithm>
#include <numeric>

namespace divergen::lvis {

Matcher::Matcher(const TruthTable& truth, std::span<const Overlap> overlaps)
    : truth_(truth),
      overlaps_(overlaps),
      thresholds_(iou_thresholds()),
      most_(Curves::most_per_cell(truth.protocol()).back()),
      taken_(truth.truths().size()) {}

bool Matcher::is_free(std::uint32_t truth, std::size_t area, std::size_t threshold) const {
  return (taken_[truth][area] >> threshold & 1) == 0 || truth_.truths()[truth].is_crowd;
}

/// Thresholds (bits) at which the detection takes an annotation; `ignored`: at which that annotation is ignored. Of an
/// annotation with id 0 only `ignored` is told: it is taken, and the detection counts as unmatched (rule 10).
std::uint16_t Matcher::accepted(const Hit& hit, std::size_t area, std::uint16_t& ignored) {
  const auto overlaps = overlaps_.subspan(hit.candidate, hit.candidates);
  std::uint16_t matched = 0;
  for (std::size_t t = 0; t < kThresholds; ++t) {
    const Overlap* best = nullptr;
    double least = std::min(thresholds_[t], 1 - 1e-10);
    // Rule 8: annotations that are ignored come last, and rule 9: not at all once another one fits.
    for (const unsigned turn : {0U, 1U}) {
      for (const Overlap& o : overlaps) {
        if ((truth_.truths()[o.truth].ignored >> area & 1U) != turn || !is_free(o.truth, area, t)) continue;
        if (o.iou < least) continue;  // of equal overlaps the last wins
        least = o.iou;
        best = &o;
      }
      if (best != nullptr) break;
    }
    if (best == nullptr) continue;
    const auto bit = static_cast<std::uint16_t>(1U << t);
    const TruthTable::Truth& truth = truth_.truths()[best->truth];
    taken_[best->truth][area] |= bit;
    if ((truth.ignored >> area & 1) != 0) ignored |= bit;
    if (!truth.has_id_zero) matched |= bit;
  }
  return matched;
}

Verdict Matcher::judge(const Hit& hit) {
  constexpr std::uint16_t kAll = (1U << kThresholds) - 1;
  Verdict out;
  for (std::size_t a = 0; a < kAreas; ++a) {
    std::uint16_t matched = 0, ignored = 0;
    if (hit.candidates > 0) matched = accepted(hit, a, ignored);
    if ((hit.outside >> a & 1) != 0) ignored |= static_cast<std::uint16_t>(~matched & kAll);  // rule 11
    out.right[a] = static_cast<std::uint16_t>(matched & ~ignored);
    out.wrong[a] = static_cast<std::uint16_t>(~matched & ~ignored & kAll);
  }
  return out;
}

void Matcher::match_image(std::span<const Hit> hits, std::vector<Judged>& out) {
  order_.resize(hits.size());
  std::iota(order_.begin(), order_.end(), 0U);
  const auto before = [&](std::uint32_t a, std::uint32_t b) { return scores_higher(hits[a].score, hits[b].score); };
  if (!std::is_sorted(order_.begin(), order_.end(), before)) std::stable_sort(order_.begin(), order_.end(), before);
  const std::size_t count = std::min<std::size_t>(hits.size(), most_);
  for (std::size_t i = 0; i < count; ++i) {
    const Hit& hit = hits[order_[i]];
    out.push_back({hit.score, hit.rank, static_cast<std::uint32_t>(i), judge(hit)});
  }
}

void Matcher::run(std::span<const Hit> hits, std::vector<Judged>& out) {
  out.clear();
  for (std::size_t first = 0; first < hits.size();) {
    std::size_t end = first + 1;
    while (end < hits.size() && hits[end].rank == hits[first].rank) ++end;
    match_image(hits.subspan(first, end - first), out);
    first = end;
  }
}

}  // namespace divergen::lvis
