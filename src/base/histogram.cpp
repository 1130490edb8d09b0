#include "base/histogram.hpp"

#include <algorithm>
#include <cmath>

namespace divergen {
namespace {

constexpr int kMostBins = 64 * LogHistogram::kBinsPerOctave;  // up to 1.8e13 seconds

double edge(int bin) {
  return LogHistogram::kLeast * std::exp2(static_cast<double>(bin) / LogHistogram::kBinsPerOctave);
}

}  // namespace

void LogHistogram::add(double seconds, std::int64_t times) {
  if (times <= 0) return;
  const double value = seconds > kLeast ? seconds : kLeast;
  const double bin = std::floor(std::log2(value / kLeast) * kBinsPerOctave);
  bins_[static_cast<int>(std::clamp(bin, 0.0, static_cast<double>(kMostBins)))] += times;
  count_ += times;
  sum_ += value * static_cast<double>(times);
}

void LogHistogram::merge(const LogHistogram& other) {
  for (const auto& [bin, count] : other.bins_) bins_[bin] += count;
  count_ += other.count_;
  sum_ += other.sum_;
}

double LogHistogram::mean() const { return count_ > 0 ? sum_ / static_cast<double>(count_) : 0; }

double LogHistogram::quantile(double q) const {
  if (count_ == 0) return 0;
  double left = std::clamp(q, 0.0, 1.0) * static_cast<double>(count_);
  for (const auto& [bin, count] : bins_) {
    const auto here = static_cast<double>(count);
    if (left <= here) return edge(bin) * std::exp2(left / here / kBinsPerOctave);
    left -= here;
  }
  return edge(bins_.rbegin()->first + 1);
}

LogHistogram LogHistogram::from_bins(const std::vector<std::pair<int, std::int64_t>>& bins, double sum) {
  LogHistogram out;
  double middles = 0;
  for (const auto& [bin, count] : bins) {
    if (bin < 0 || bin > kMostBins || count <= 0) continue;
    out.bins_[bin] += count;
    out.count_ += count;
    middles += static_cast<double>(count) * edge(bin) * std::exp2(0.5 / kBinsPerOctave);
  }
  out.sum_ = sum > 0 ? sum : middles;
  return out;
}

}  // namespace divergen
