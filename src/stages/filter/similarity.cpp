#include "stages/filter/similarity.hpp"

#include <cmath>
#include <cstring>

#include "base/error.hpp"

namespace divergen::stages {

void make_unit(std::span<float> vector) {
  const double length = std::sqrt(dot(vector, vector));
  if (length == 0) return;
  for (float& value : vector) value = static_cast<float>(static_cast<double>(value) / length);
}

double dot(std::span<const float> a, std::span<const float> b) {
  DIVERGEN_CHECK(a.size() == b.size(), a.size(), " and ", b.size(), " features");
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

void FeatureSum::add(std::span<const float> unit) {
  if (sums_.empty()) sums_.resize(unit.size());
  DIVERGEN_CHECK(unit.size() == sums_.size(), unit.size(), " features, not ", sums_.size());
  for (std::size_t i = 0; i < unit.size(); ++i) sums_[i] += static_cast<double>(unit[i]);
  ++count_;
}

void FeatureSum::merge(const FeatureSum& other) {
  if (other.count_ == 0) return;
  if (sums_.empty()) sums_.resize(other.sums_.size());
  DIVERGEN_CHECK(other.sums_.size() == sums_.size(), other.sums_.size(), " features, not ", sums_.size());
  for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] += other.sums_[i];
  count_ += other.count_;
}

std::vector<float> FeatureSum::mean() const {
  std::vector<float> out;
  for (const double sum : sums_) out.push_back(static_cast<float>(sum / static_cast<double>(count_)));
  return out;
}

std::string FeatureSum::bytes() const {
  return {reinterpret_cast<const char*>(sums_.data()), sums_.size() * sizeof(double)};
}

FeatureSum FeatureSum::from_bytes(std::string_view bytes, std::int64_t count) {
  FeatureSum sum;
  sum.sums_.resize(bytes.size() / sizeof(double));
  if (bytes.size() % sizeof(double) != 0 || sum.sums_.empty() != (count == 0))
    fail(ErrorKind::Data, {"a sum of features is damaged", cat(bytes.size(), " bytes"),
                           "they are no whole number of float64", "remove the folder filter.reference of the run"});
  if (!bytes.empty()) std::memcpy(sum.sums_.data(), bytes.data(), bytes.size());
  sum.count_ = count;
  return sum;
}

}  // namespace divergen::stages
