#include "lvis/curves.hpp"

#include <algorithm>
#include <cmath>

#include "lvis/parallel.hpp"

namespace divergen::lvis {
namespace {

constexpr std::array<std::uint32_t, 1> kLvisLevels{0xFFFFFFFF};
constexpr std::array<std::uint32_t, 3> kCocoLevels{1, 10, 100};

double mean(const std::vector<double>& values) {
  return values.empty() ? -1 : pairwise_sum(values.data(), values.size()) / static_cast<double>(values.size());
}

/// needed[r]: the least number of right detections with which the recall reaches recall_thresholds()[r], at least 1.
std::array<std::uint32_t, kRecalls> right_needed(std::int64_t positives) {
  static const std::array<double, kRecalls> recalls = recall_thresholds();
  std::array<std::uint32_t, kRecalls> out{};
  const auto all = static_cast<double>(positives);
  for (std::size_t r = 0; r < kRecalls; ++r) {
    auto n = static_cast<std::int64_t>(std::floor(recalls[r] * all)) - 1;
    n = std::max<std::int64_t>(n, 1);
    while (static_cast<double>(n) / all < recalls[r]) ++n;
    out[r] = static_cast<std::uint32_t>(n);
  }
  return out;
}

}  // namespace

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

std::span<const std::uint32_t> Curves::most_per_cell(Protocol protocol) {
  if (protocol == Protocol::Lvis) return kLvisLevels;
  return kCocoLevels;
}

Curves::Curves(const TruthTable& truth)
    : protocol_(truth.protocol()),
      categories_(truth.categories()),
      levels_(most_per_cell(truth.protocol()).size()),
      column_(categories_),
      positives_(categories_),
      precision_(kAreas * levels_),
      recall_(kAreas * levels_) {
  for (std::size_t a = 0; a < kAreas; ++a) {
    for (std::size_t k = 0; k < categories_; ++k) {
      positives_[k][a] = truth.positives(k, a);
      if (positives_[k][a] == 0) continue;  // rule 12
      column_[k][a] = static_cast<std::uint32_t>(present_[a].size());
      present_[a].push_back(static_cast<std::uint32_t>(k));
    }
    for (std::size_t m = 0; m < levels_; ++m) {
      precision_[plane(a, m)].assign(present_[a].size() * kCells, 0);
      recall_[plane(a, m)].assign(present_[a].size() * kThresholds, 0);
    }
  }
}

void Curves::fill(std::size_t category, std::size_t area, std::size_t level, std::span<const Verdict> verdicts) {
  if (positives_[category][area] == 0) return;
  constexpr std::uint16_t kAll = (1U << kThresholds) - 1;
  // Recall changes at right detections alone, and precision is highest at them: only they are looked at. totals[t]: how
  // many detections, right and wrong, there were at each right one.
  thread_local std::array<std::vector<std::uint32_t>, kThresholds> totals;
  for (auto& list : totals) list.clear();
  std::array<std::uint32_t, kThresholds> count{};
  std::uint32_t wrong_at_all = 0;
  for (const Verdict& v : verdicts) {
    const unsigned wrong = v.wrong[area];
    if (wrong == kAll) {
      ++wrong_at_all;
      continue;
    }
    for (std::size_t t = 0; t < kThresholds; ++t) count[t] += wrong >> t & 1U;
    for (unsigned right = v.right[area]; right != 0; right &= right - 1) {
      const auto t = static_cast<std::size_t>(__builtin_ctz(right));
      totals[t].push_back(++count[t] + wrong_at_all);
    }
  }
  const auto needed = right_needed(positives_[category][area]);
  const std::size_t column = column_[category][area];
  double* row = &precision_[plane(area, level)][column * kCells];
  thread_local std::vector<double> best;
  for (std::size_t t = 0; t < kThresholds; ++t) {
    const std::size_t n = totals[t].size();
    recall_[plane(area, level)][column * kThresholds + t] =
        static_cast<double>(n) / static_cast<double>(positives_[category][area]);
    best.resize(n + 1);
    best[n] = 0;
    for (std::size_t j = n; j-- > 0;)  // rule 13: numpy.spacing(1) is added as written
      best[j] = std::max(best[j + 1], static_cast<double>(j + 1) / (static_cast<double>(totals[t][j]) + 0x1p-52));
    for (std::size_t r = 0; r < kRecalls; ++r) row[t * kRecalls + r] = needed[r] <= n ? best[needed[r] - 1] : 0;
  }
}

/// Over thresholds, recalls and the given columns, in this order.
double Curves::mean_precision(std::span<const std::uint32_t> columns, std::size_t area,
                              std::optional<std::size_t> threshold) const {
  const std::vector<double>& rows = precision_[plane(area, levels_ - 1)];
  const std::size_t first = threshold.value_or(0) * kRecalls, cells = threshold ? kRecalls : kCells;
  std::vector<double> values(cells * columns.size());
  constexpr std::size_t kTile = 8;  // a cache line of each row at a time
  for (std::size_t c = 0; c < cells; c += kTile)
    for (std::size_t k = 0; k < columns.size(); ++k) {
      const double* row = rows.data() + columns[k] * kCells + first;
      for (std::size_t i = c; i < std::min(c + kTile, cells); ++i) values[i * columns.size() + k] = row[i];
    }
  return mean(values);
}

double Curves::mean_recall(std::size_t area, std::size_t level) const {
  std::vector<double> values;
  for (std::size_t t = 0; t < kThresholds; ++t)
    for (std::size_t k = 0; k < present_[area].size(); ++k)
      values.push_back(recall_[plane(area, level)][k * kThresholds + t]);
  return mean(values);
}

Summary Curves::summary(const Dataset& dataset, unsigned threads) const {
  std::array<std::vector<std::uint32_t>, kAreas> all;
  for (std::size_t a = 0; a < kAreas; ++a)
    for (std::size_t k = 0; k < present_[a].size(); ++k) all[a].push_back(static_cast<std::uint32_t>(k));
  const auto group = [&](std::string_view frequency) {
    std::vector<std::uint32_t> columns;
    for (const std::uint32_t k : present_[0])
      if (dataset.categories[k].frequency == frequency) columns.push_back(column_[k][0]);
    return columns;
  };
  const auto half = std::optional<std::size_t>(0), three_quarters = std::optional<std::size_t>(5);
  std::vector<std::function<double()>> values{[&] { return mean_precision(all[0], 0, {}); },
                                              [&] { return mean_precision(all[0], 0, half); },
                                              [&] { return mean_precision(all[0], 0, three_quarters); },
                                              [&] { return mean_precision(all[1], 1, {}); },
                                              [&] { return mean_precision(all[2], 2, {}); },
                                              [&] { return mean_precision(all[3], 3, {}); }};
  if (protocol_ == Protocol::Lvis) {
    for (const char* frequency : {"r", "c", "f"})
      values.push_back([&, frequency] { return mean_precision(group(frequency), 0, {}); });
  } else {
    for (const std::size_t level : {0U, 1U}) values.push_back([&, level] { return mean_recall(0, level); });
  }
  for (std::size_t a = 0; a < kAreas; ++a) values.push_back([&, a] { return mean_recall(a, levels_ - 1); });
  Summary out;
  out.protocol = protocol_;
  parallel_for(values.size(), threads, 1, [&](unsigned, std::size_t i) { out.values[i] = values[i](); });
  return out;
}

CategoryScores Curves::scores(std::size_t category) const {
  CategoryScores out;
  const auto of = [&](std::size_t area, std::optional<std::size_t> threshold) {
    if (positives_[category][area] == 0) return -1.0;
    const double* row = &precision_[plane(area, levels_ - 1)][column_[category][area] * kCells];
    const std::size_t n = threshold ? kRecalls : kCells;
    return pairwise_sum(row + threshold.value_or(0) * kRecalls, n) / static_cast<double>(n);
  };
  const auto recall = [&] {
    if (positives_[category][0] == 0) return -1.0;
    return pairwise_sum(&recall_[plane(0, levels_ - 1)][column_[category][0] * kThresholds], kThresholds) /
           static_cast<double>(kThresholds);
  };
  out.values = {of(0, {}), of(0, 0), of(0, 5), of(1, {}), of(2, {}), of(3, {}), recall()};
  return out;
}

std::vector<double> Curves::precision() const {
  std::vector<double> out(kCells * categories_ * kAreas * levels_, -1);
  for (std::size_t a = 0; a < kAreas; ++a)
    for (std::size_t m = 0; m < levels_; ++m)
      for (std::size_t k = 0; k < present_[a].size(); ++k)
        for (std::size_t c = 0; c < kCells; ++c)
          out[(c * categories_ + present_[a][k]) * kAreas * levels_ + plane(a, m)] =
              precision_[plane(a, m)][k * kCells + c];
  return out;
}

std::vector<double> Curves::recall() const {
  std::vector<double> out(kThresholds * categories_ * kAreas * levels_, -1);
  for (std::size_t a = 0; a < kAreas; ++a)
    for (std::size_t m = 0; m < levels_; ++m)
      for (std::size_t k = 0; k < present_[a].size(); ++k)
        for (std::size_t t = 0; t < kThresholds; ++t)
          out[(t * categories_ + present_[a][k]) * kAreas * levels_ + plane(a, m)] =
              recall_[plane(a, m)][k * kThresholds + t];
  return out;
}

}  // namespace divergen::lvis
