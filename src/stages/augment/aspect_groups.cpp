#include "stages/augment/aspect_groups.hpp"

#include "base/error.hpp"

namespace divergen::stages {
namespace {

// Steps whose groups are kept: more than any loader is ahead of its trainer.
constexpr std::uint64_t kKeptSteps = 8192;

}  // namespace

AspectGroups::AspectGroups(std::function<bool(std::uint64_t)> is_wide, std::uint64_t group, std::uint64_t ranks)
    : is_wide_(std::move(is_wide)), group_(group), ranks_(ranks) {
  DIVERGEN_CHECK(group > 0 && ranks > 0, group, ", ", ranks);
}

/// Walks on until a bucket is full.
void AspectGroups::complete_next() const {
  for (;;) {
    auto& bucket = buckets_[is_wide_(next_position_) ? 1 : 0];
    bucket.push_back(next_position_++);
    if (bucket.size() < group_) continue;
    kept_.insert(kept_.end(), bucket.begin(), bucket.end());
    bucket.clear();
    break;
  }
  const std::uint64_t most = kKeptSteps * ranks_;
  if (kept_.size() / group_ < 2 * most) return;
  kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(most * group_));
  first_kept_ += most;
}

std::uint64_t AspectGroups::position(std::uint64_t index) const {
  const std::uint64_t batch = group_ * ranks_, within = index % batch;
  const std::uint64_t number = index / batch * ranks_ + within % ranks_;
  const std::lock_guard lock(mutex_);
  if (number < first_kept_) {
    next_position_ = first_kept_ = 0;
    kept_.clear();
    for (auto& bucket : buckets_) bucket.clear();
  }
  while (number >= first_kept_ + kept_.size() / group_) complete_next();
  return kept_[(number - first_kept_) * group_ + within / ranks_];
}

}  // namespace divergen::stages
