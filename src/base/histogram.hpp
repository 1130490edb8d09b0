#pragma once
// How long things took, in a fixed number of bins that are equally wide on a logarithmic scale: adding costs a
// logarithm, histograms of many ranks add up exactly, and quantiles are right within half a bin (2.2 %).

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace divergen {

class LogHistogram {
 public:
  static constexpr int kBinsPerOctave = 16;
  static constexpr double kLeast = 1e-6;  // seconds; what is shorter counts as this long

  /// Not a number and negative values count as kLeast. Not thread-safe, as all below.
  void add(double seconds, std::int64_t times = 1);
  void merge(const LogHistogram& other);

  bool empty() const { return count_ == 0; }
  std::int64_t count() const { return count_; }
  /// The exact mean of what was added (of a histogram from bins(): of the bins' middles); 0 when empty.
  double mean() const;
  /// The value below which a share `q` (0 .. 1) of all lies, even within a bin; 0 when empty.
  double quantile(double q) const;

  /// (number of the bin, count), ascending, without empty bins: what files hold. Bin b spans
  /// kLeast * 2^(b/16) .. kLeast * 2^((b+1)/16) seconds.
  std::vector<std::pair<int, std::int64_t>> bins() const { return {bins_.begin(), bins_.end()}; }
  /// From bins() and the sum of all values. Negative numbers are ignored.
  static LogHistogram from_bins(const std::vector<std::pair<int, std::int64_t>>& bins, double sum);
  double sum() const { return sum_; }

 private:
  std::map<int, std::int64_t> bins_;
  std::int64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace divergen
