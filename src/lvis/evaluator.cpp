#include "lvis/evaluator.hpp"

#include <algorithm>
#include <numeric>

#include "base/error.hpp"
#include "lvis/curves.hpp"
#include "lvis/matcher.hpp"
#include "lvis/parallel.hpp"

namespace divergen::lvis {
namespace {

/// Detections of one image that follow each other in a batch.
struct Run {
  std::uint32_t rank = 0, batch = 0, first = 0, end = 0;
};

/// In the order of image ids, and of the file within an image.
std::vector<Run> runs_of(const std::vector<Batch>& batches, const TruthTable& truth) {
  std::vector<Run> out;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const auto& entries = batches[b].entries;
    for (std::size_t first = 0; first < entries.size();) {
      std::size_t end = first + 1;
      while (end < entries.size() && entries[end].image == entries[first].image) ++end;
      out.push_back({truth.rank(entries[first].image), static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(first),
                     static_cast<std::uint32_t>(end)});
      first = end;
    }
  }
  std::stable_sort(out.begin(), out.end(), [](const Run& a, const Run& b) { return a.rank < b.rank; });
  return out;
}

/// All that takes part, by category.
struct Hits {
  std::vector<Hit> hits;
  std::vector<std::size_t> begin;  // of each category
  std::vector<Overlap> overlaps;
};

Hits by_category(std::vector<Batch>& batches, const TruthTable& truth) {
  Hits out;
  out.begin.resize(truth.categories() + 1);
  std::size_t overlaps = 0;
  for (const Batch& batch : batches) {
    overlaps += batch.candidates.size();
    for (const Entry& e : batch.entries)
      if (e.code != Entry::kDropped) ++out.begin[e.category() + 1];
  }
  std::partial_sum(out.begin.begin(), out.begin.end(), out.begin.begin());
  out.hits.resize(out.begin.back());
  out.overlaps.reserve(overlaps);
  std::vector<std::size_t> next(out.begin.begin(), out.begin.end() - 1);
  for (const Run& run : runs_of(batches, truth)) {
    const Batch& batch = batches[run.batch];
    auto candidate = std::lower_bound(batch.candidates.begin(), batch.candidates.end(), run.first,
                                      [](const Candidate& c, std::uint32_t entry) { return c.entry < entry; });
    for (std::uint32_t i = run.first; i < run.end; ++i) {
      const Entry& e = batch.entries[i];
      if (e.code == Entry::kDropped) {  // by the cut, perhaps, after its overlaps were computed
        while (candidate != batch.candidates.end() && candidate->entry == i) ++candidate;
        continue;
      }
      Hit hit{e.score, run.rank, static_cast<std::uint32_t>(out.overlaps.size()), 0,
              static_cast<std::uint8_t>(e.code & 0xF)};
      for (; candidate != batch.candidates.end() && candidate->entry == i; ++candidate, ++hit.candidates)
        out.overlaps.push_back({candidate->truth, candidate->iou});
      out.hits[next[e.category()]++] = hit;
    }
  }
  return out;
}

}  // namespace

double Summary::operator[](std::string_view wanted) const {
  for (std::size_t i = 0; i < size(); ++i)
    if (wanted == name(i)) return values[i];
  check_failed("a known summary", std::string(wanted));
}

Evaluator::Evaluator(const Dataset& truth, const EvaluationOptions& options)
    : truth_(truth, options.type, options.protocol),
      threads_(options.threads > 0 ? options.threads : usable_threads()) {}

void Evaluator::add(Batch batch) {
  batch.entries.shrink_to_fit();
  batch.candidates.shrink_to_fit();
  batches_.push_back(std::move(batch));
}

/// Rules 1 and 3. Only images above the limit are sorted; what is cut off takes no part, and the order of the rest does
/// not change what comes out, since all later sorts are stable and by score.
void Evaluator::cut_to_limit() {
  std::vector<std::uint32_t> count(truth_.dataset().images.size());
  for (const Batch& batch : batches_)
    for (const Entry& e : batch.entries) ++count[e.image];
  struct Place {
    std::uint32_t image, batch, entry;
    double score;
  };
  std::vector<Place> places;
  for (std::uint32_t b = 0; b < batches_.size(); ++b)
    for (std::uint32_t i = 0; i < batches_[b].entries.size(); ++i) {
      const Entry& e = batches_[b].entries[i];
      if (count[e.image] > kMostPerImage) places.push_back({e.image, b, i, e.score});
    }
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return a.image != b.image ? a.image < b.image : scores_higher(a.score, b.score);
  });
  for (std::size_t i = 0, within = 0; i < places.size(); ++i) {
    within = i > 0 && places[i].image == places[i - 1].image ? within + 1 : 0;
    if (within >= kMostPerImage) batches_[places[i].batch].entries[places[i].entry].code = Entry::kDropped;
  }
}

/// Calls each(category, detections that took part, those of them that were judged) for every category, from several
/// threads.
template <class Each>
void Evaluator::match(const Each& each) {
  if (truth_.protocol() == Protocol::Lvis) cut_to_limit();
  const Hits all = by_category(batches_, truth_);
  batches_.clear();
  std::vector<std::unique_ptr<Matcher>> matchers(threads_);
  std::vector<std::vector<Judged>> judged(threads_);
  parallel_for(truth_.categories(), threads_, 4, [&](unsigned lane, std::size_t k) {
    const auto hits = std::span(all.hits).subspan(all.begin[k], all.begin[k + 1] - all.begin[k]);
    judged[lane].clear();
    if (!hits.empty() && truth_.has_positives(k)) {  // rule 12
      if (!matchers[lane]) matchers[lane] = std::make_unique<Matcher>(truth_, all.overlaps);
      matchers[lane]->run(hits, judged[lane]);
    }
    each(k, hits.size(), std::span(judged[lane]));
  });
}

Evaluation Evaluator::finish() {
  std::int64_t detections = 0;
  for (const Batch& batch : batches_) detections += static_cast<std::int64_t>(batch.entries.size());
  std::vector<std::int64_t> kept(truth_.categories());
  Accumulator accumulator(truth_);
  match([&](std::size_t k, std::size_t count, std::span<Judged> judged) {
    kept[k] = static_cast<std::int64_t>(count);
    accumulator.add(k, judged);
  });
  return accumulator.finish(kept, detections, threads_);
}

void Evaluator::judge(JudgedColumns& to) {
  to.of_category.resize(truth_.categories());
  to.kept.resize(truth_.categories());
  for (const Batch& batch : batches_) to.detections += static_cast<std::int64_t>(batch.entries.size());
  match([&](std::size_t k, std::size_t count, std::span<Judged> judged) {
    to.kept[k] += static_cast<std::int64_t>(count);
    to.of_category[k].append(judged);
  });
  truth_.release_masks();
}

Accumulator::Accumulator(const TruthTable& truth) : truth_(truth), curves_(std::make_shared<Curves>(truth)) {}

void Accumulator::add(std::size_t category, std::span<Judged> judged) {
  if (judged.empty()) return;
  // The reference concatenates images in the order of ids and sorts stably by score alone: place and image tell apart
  // what has equal scores.
  std::sort(judged.begin(), judged.end(), [](const Judged& a, const Judged& b) {
    if (scores_higher(a.score, b.score)) return true;
    if (scores_higher(b.score, a.score)) return false;
    return a.image != b.image ? a.image < b.image : a.place < b.place;
  });
  thread_local std::vector<Verdict> verdicts;
  const auto levels = Curves::most_per_cell(truth_.protocol());
  for (std::size_t m = 0; m < levels.size(); ++m) {
    verdicts.clear();
    for (const Judged& j : judged)
      if (j.place < levels[m]) verdicts.push_back(j.verdict);
    for (std::size_t a = 0; a < kAreas; ++a) curves_->fill(category, a, m, verdicts);
  }
}

Evaluation Accumulator::finish(std::span<const std::int64_t> kept, std::int64_t detections, unsigned threads) {
  Evaluation out;
  out.detections = detections;
  out.summary = curves_->summary(truth_.dataset(), threads);
  for (std::size_t k = 0; k < truth_.categories(); ++k) {
    CategoryScores scores = curves_->scores(k);
    scores.id = truth_.dataset().categories[k].id;
    scores.detections = kept[k];
    out.kept += kept[k];
    out.category_ap[scores.id] = scores.values[0];
    out.categories.push_back(scores);
  }
  for (const TruthTable::Cell& cell : truth_.cells()) out.categories[cell.category].truths += cell.count;
  out.curves = curves_;
  return out;
}

std::vector<double> Evaluation::precision() const { return curves->precision(); }
std::vector<double> Evaluation::recall() const { return curves->recall(); }

void collect(Evaluator& evaluator, std::span<const Detection> detections) {
  const TruthTable& truth = evaluator.truth();
  constexpr std::size_t kBatch = 4096;
  std::vector<Batch> batches((detections.size() + kBatch - 1) / kBatch);
  std::vector<std::unique_ptr<Collector>> collectors(evaluator.threads());
  parallel_for(batches.size(), evaluator.threads(), 1, [&](unsigned lane, std::size_t b) {
    if (!collectors[lane]) collectors[lane] = std::make_unique<Collector>(truth);
    mask::Spans spans;
    for (std::size_t i = b * kBatch; i < std::min(detections.size(), (b + 1) * kBatch); ++i) {
      const Detection& d = detections[i];
      const auto* image = truth.dataset().image_index.find(d.image_id);
      if (image == nullptr)
        fail(ErrorKind::Data, {"the results do not belong to the ground truth", cat("image ", d.image_id),
                               "the ground truth has no such image", "name the results of this data set"});
      const Collector::Place place = collectors[lane]->place(image->second, d.category_id);
      if (!place.counts) {
        collectors[lane]->drop(batches[b], place, d.score);
      } else if (truth.type() == IouType::Box) {
        collectors[lane]->add(batches[b], place, d.score, d.area, d.box);
      } else {
        to_spans(d.rle, spans);
        collectors[lane]->add(batches[b], place, d.score, d.area, spans);
      }
    }
  });
  for (Batch& batch : batches) evaluator.add(std::move(batch));
}

Evaluation evaluate(const Dataset& truth, const std::vector<Detection>& detections, const EvaluationOptions& options) {
  Evaluator evaluator(truth, options);
  collect(evaluator, detections);
  return evaluator.finish();
}

}  // namespace divergen::lvis
