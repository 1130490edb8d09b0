#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/charts.hpp"
#include "stages/report/svg.hpp"

namespace divergen::stages::report {
namespace {

constexpr std::size_t kMostLanes = 32;  // of one stage; of more ranks, evenly spread ones are drawn

/// Clock seconds -> drawing units, with long pauses cut out.
class CutAxis {
 public:
  CutAxis(std::vector<std::pair<double, double>> intervals, double start, double end) {
    std::sort(intervals.begin(), intervals.end());
    for (const auto& [from, to] : intervals) {
      if (spans_.empty() || from > spans_.back().to) spans_.push_back({from, to, 0});
      else spans_.back().to = std::max(spans_.back().to, to);
    }
    double covered = 0;
    for (const Span& s : spans_) covered += s.to - s.from;
    // A pause longer than a twentieth of all the work is a pause between jobs; it keeps a fiftieth.
    const double longest = std::max(0.05 * covered, 1.0), shown = 0.02 * covered;
    double at = 0;
    for (std::size_t i = 0; i < spans_.size(); ++i) {
      if (i > 0) {
        const double pause = spans_[i].from - spans_[i - 1].to;
        if (pause > longest) cuts_.push_back(at + shown / 2);
        at += pause > longest ? shown : pause;
      }
      spans_[i].at = at;
      at += spans_[i].to - spans_[i].from;
    }
    length_ = std::max(at, 1e-9);
    start_ = start;
    unit_ = (end - start) / length_;
  }

  double operator()(double time) const {
    const Span* last = &spans_.front();
    for (const Span& s : spans_)
      if (s.from <= time) last = &s;
    return start_ + unit_ * (last->at + std::clamp(time, last->from, last->to) - last->from);
  }
  double length() const { return length_; }
  double at_length(double seconds) const { return start_ + unit_ * seconds; }
  const std::vector<double>& cuts() const { return cuts_; }  // in seconds along the axis

 private:
  struct Span {
    double from, to, at;
  };
  std::vector<Span> spans_;
  std::vector<double> cuts_;
  double length_ = 0, start_ = 0, unit_ = 1;
};

/// Ticks at whole seconds, minutes, hours or days, about eight.
std::vector<double> time_ticks(double length) {
  constexpr double kSteps[] = {1,    2,    5,    10,    15,    30,    60,    120,    300,    600,   900,
                               1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 345600, 864000};
  double step = kSteps[0];
  for (double s : kSteps)
    if (length / step > 9) step = s;
  if (length < step) return nice_ticks(0, length, 5);
  std::vector<double> ticks;
  for (double t = 0; t <= length; t += step) ticks.push_back(t);
  return ticks;
}

/// "0", "40 s", "2 min", "1 h 30 min".
std::string time_label(double seconds) {
  if (seconds == 0) return "0";
  if (seconds < 60) return seconds < 10 && seconds != std::floor(seconds) ? human_seconds(seconds) : cat(seconds, " s");
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 3600) return whole % 60 == 0 ? cat(whole / 60, " min") : human_seconds(seconds);
  return whole % 3600 == 0 && whole < 48 * 3600 ? cat(whole / 3600, " h") : human_seconds(seconds);
}

struct Lanes {
  const StageRecord* record;
  std::vector<const RankShare*> ranks;
};

std::vector<Lanes> lanes_of(const std::vector<StageRecord>& records) {
  std::vector<Lanes> all;
  for (const StageRecord& record : records) {
    std::vector<const RankShare*> ranks;
    for (const RankShare& r : record.ranks)
      if (r.end > r.start && r.start > 0) ranks.push_back(&r);
    if (ranks.empty()) continue;
    const std::size_t shown = std::min(kMostLanes, ranks.size());
    Lanes lanes{&record, {}};
    for (std::size_t k = 0; k < shown; ++k) lanes.ranks.push_back(ranks[k * ranks.size() / shown]);
    all.push_back(std::move(lanes));
  }
  // In the order in which they began.
  std::stable_sort(all.begin(), all.end(), [](const Lanes& a, const Lanes& b) {
    const auto begin = [](const Lanes& l) {
      double first = l.ranks.front()->start;
      for (const RankShare* r : l.ranks) first = std::min(first, r->start);
      return first;
    };
    return begin(a) < begin(b);
  });
  return all;
}

void draw_rank(Svg& svg, const CutAxis& x, const RankShare& rank, const std::string& stage, double y, double height) {
  const double from = x(rank.start), to = std::max(x(rank.end), from + 1.5);
  const double share = std::clamp(rank.busy_seconds / (rank.end - rank.start), 0.0, 1.0);
  const std::string tip =
      cat(stage, ", rank ", rank.rank, " on ", rank.host, ": ", with_thousands(rank.items), " items in ",
          human_seconds(rank.end - rank.start), ", ", fixed(100 * share, 0), " % busy");
  svg.rect(from, y, to - from, height, "lane", tip, height > 5 ? 2 : 0);
  svg.rect(from, y, (to - from) * share, height, "lane-busy", tip, height > 5 ? 2 : 0);
}

}  // namespace

std::string timeline(const std::vector<StageRecord>& records) {
  const std::vector<Lanes> all = lanes_of(records);
  if (all.empty()) return "";
  std::vector<std::pair<double, double>> intervals;
  double height = 8;
  const auto lane_height = [](const Lanes& lanes) { return lanes.ranks.size() > 8 ? 5.0 : 13.0; };
  for (const Lanes& lanes : all) {
    height += static_cast<double>(lanes.ranks.size()) * (lane_height(lanes) + 2) + 10;
    for (const RankShare* r : lanes.ranks) intervals.emplace_back(r->start, r->end);
  }
  const double left = 160, width = 1024;
  Svg svg(width, height + 26, "When each rank worked in each stage");
  const CutAxis x(std::move(intervals), left, width - 8);
  for (double t : time_ticks(x.length())) {
    svg.line(x.at_length(t), 4, x.at_length(t), height, "grid");
    svg.text(x.at_length(t), height + 18, time_label(t), "tick", Anchor::Middle);
  }
  for (double cut : x.cuts()) svg.line(x.at_length(cut), 4, x.at_length(cut), height, "bound");
  double y = 8;
  for (const Lanes& lanes : all) {
    const double one = lane_height(lanes);
    svg.text(left - 12, y + 11, lanes.record->stage, "label", Anchor::End);
    for (const RankShare* rank : lanes.ranks) {
      draw_rank(svg, x, *rank, lanes.record->stage, y, one);
      y += one + 2;
    }
    y += 10;
  }
  return svg.str();
}

}  // namespace divergen::stages::report
