#include "stages/augment/repeat_factor.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

// Epochs that are kept: enough that all loader threads of a rank find theirs, also where an epoch is tiny.
constexpr std::size_t kKeptEpochs = 3, kKeptPositions = 65536;

}  // namespace

std::vector<float> repeat_factors(std::span<const std::vector<std::int64_t>> categories_of_images, double threshold) {
  std::map<std::int64_t, std::int64_t> images_with;
  std::vector<std::set<std::int64_t>> distinct;
  for (const auto& categories : categories_of_images) {
    distinct.emplace_back(categories.begin(), categories.end());
    for (const std::int64_t category : distinct.back()) ++images_with[category];
  }
  std::map<std::int64_t, double> factor_of;
  for (const auto& [category, count] : images_with) {
    const double frequency = static_cast<double>(count) / static_cast<double>(categories_of_images.size());
    factor_of[category] = std::max(1.0, std::sqrt(threshold / frequency));
  }
  std::vector<float> out;
  out.reserve(distinct.size());
  for (const auto& categories : distinct) {
    double factor = 1.0;
    for (const std::int64_t category : categories) factor = std::max(factor, factor_of.at(category));
    out.push_back(static_cast<float>(factor));
  }
  return out;
}

std::vector<std::uint32_t> TorchRandom::permutation(std::size_t n) {
  // Above 2^32 / 20 elements torch draws 64-bit numbers instead.
  DIVERGEN_CHECK(n < std::size_t{0xffffffffU} / 20, n);
  std::vector<std::uint32_t> out(n);
  std::iota(out.begin(), out.end(), 0U);
  for (std::size_t i = 0; i + 1 < n; ++i) std::swap(out[i], out[i + engine_() % (n - i)]);
  return out;
}

std::vector<std::uint32_t> repeated_indices(std::span<const float> factors, TorchRandom& random) {
  std::vector<std::uint32_t> out;
  out.reserve(factors.size() * 2);
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const float whole = std::trunc(factors[i]), fraction = factors[i] - whole;
    const auto times = static_cast<std::size_t>(whole) + (random.uniform() < fraction ? 1 : 0);
    out.insert(out.end(), times, static_cast<std::uint32_t>(i));
  }
  return out;
}

RepeatFactorStream::RepeatFactorStream(std::vector<float> factors, std::uint64_t seed)
    : factors_(std::move(factors)), seed_(seed), random_(seed) {
  DIVERGEN_CHECK(!factors_.empty());
  for (const float factor : factors_) DIVERGEN_CHECK(factor >= 1, factor);
}

std::shared_ptr<const RepeatFactorStream::Epoch> RepeatFactorStream::next_epoch() const {
  const auto unshuffled = repeated_indices(factors_, random_);
  const auto permutation = random_.permutation(unshuffled.size());
  Epoch epoch;
  if (!recent_.empty()) {
    epoch.number = recent_.back()->number + 1;
    epoch.first = recent_.back()->first + recent_.back()->order.size();
  }
  epoch.order.reserve(permutation.size());
  for (const std::uint32_t i : permutation) epoch.order.push_back(unshuffled[i]);
  return std::make_shared<const Epoch>(std::move(epoch));
}

std::shared_ptr<const RepeatFactorStream::Epoch> RepeatFactorStream::epoch_of(std::uint64_t position) const {
  const std::lock_guard lock(mutex_);
  if (!recent_.empty() && position < recent_.front()->first) {
    random_ = TorchRandom(seed_);
    recent_.clear();
  }
  while (recent_.empty() || position >= recent_.back()->first + recent_.back()->order.size()) {
    recent_.push_back(next_epoch());
    while (recent_.size() > kKeptEpochs && recent_.back()->first - recent_[1]->first > kKeptPositions)
      recent_.erase(recent_.begin());
  }
  const auto after = std::upper_bound(recent_.begin(), recent_.end(), position,
                                      [](std::uint64_t p, const auto& epoch) { return p < epoch->first; });
  return *std::prev(after);
}

std::uint32_t RepeatFactorStream::operator[](std::uint64_t position) const {
  const auto epoch = epoch_of(position);
  return epoch->order[position - epoch->first];
}

}  // namespace divergen::stages
