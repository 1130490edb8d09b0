#pragma once
// Aspect-ratio grouping (detectron2's AspectRatioGroupedDataset, reference/semantics.md §7.10): the samples of one
// rank's batch are all wider than high, or none is, so that little of a batch is padding.
//
// The reference fills two buckets in every loader worker, from the samples of that worker as they come. Here the
// buckets stand in the one stream that all ranks share: group k is the k-th bucket that is filled in it, and step n of
// rank r of R takes group n R + r. So the order is a pure function of (seed, batch, ranks) and can be taken up
// anywhere: it is played again from its beginning, a microsecond a sample. Where all samples are square, or a group is
// one sample, it is the stream's own order.
//
// Two deliberate differences (semantics.md §12, trap 12): the size after resize-crop counts for all samples, not only
// for those that something was pasted onto; square ones are not wide, as there.

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace divergen::stages {

class AspectGroups {
 public:
  /// `is_wide` of a position of the stream; pure and thread-safe. A step takes `ranks` groups of `group` samples.
  AspectGroups(std::function<bool(std::uint64_t)> is_wide, std::uint64_t group, std::uint64_t ranks);

  /// Position in the stream of the sample that would have stood at `index` without grouping: index n B + k R + r
  /// (B = group · ranks) is the k-th sample of step n on rank r. Thread-safe. Indices near those asked for lately cost
  /// a look-up, others a walk over the stream from its beginning.
  std::uint64_t position(std::uint64_t index) const;

 private:
  void complete_next() const;

  std::function<bool(std::uint64_t)> is_wide_;
  std::uint64_t group_, ranks_;
  mutable std::mutex mutex_;
  mutable std::uint64_t next_position_ = 0;        // of the stream, not looked at yet
  mutable std::vector<std::uint64_t> buckets_[2];  // begun: not wide, wide
  mutable std::uint64_t first_kept_ = 0;           // number of the group at the front of kept_
  mutable std::vector<std::uint64_t> kept_;        // samples of the groups filled lately
};

}  // namespace divergen::stages
