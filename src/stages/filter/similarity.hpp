#pragma once
// Mean cosines of features without a matrix of pairs: the mean over crops of cos(g, l) is the product of the unit
// vector of g with the mean of the unit vectors of the crops (reference/semantics.md §5.3). Plain loops in double, so
// that the bits depend on no library and no number of threads.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace divergen::stages {

/// Scales to length 1; a vector of zeros stays one.
void make_unit(std::span<float> vector);

double dot(std::span<const float> a, std::span<const float> b);

/// Sum of unit vectors. Sums that are merged in the same order have the same bits.
class FeatureSum {
 public:
  void add(std::span<const float> unit);
  void merge(const FeatureSum& other);
  std::int64_t count() const { return count_; }
  /// Of what was added; empty when nothing was.
  std::vector<float> mean() const;

  /// The sums as little-endian doubles, for a table's heap.
  std::string bytes() const;
  /// Throws Error(Data) when `bytes` holds no whole number of doubles.
  static FeatureSum from_bytes(std::string_view bytes, std::int64_t count);

 private:
  std::vector<double> sums_;
  std::int64_t count_ = 0;
};

}  // namespace divergen::stages
