#pragma once
// Training samples: an image of the data set after resize-crop and flip, with generated instances pasted in
// (reference/semantics.md §7, augmentation.md). A sample is a pure function of (seed, position). No LibTorch.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "image/image.hpp"
#include "lvis/dataset.hpp"
#include "stages/augment/stage_clock.hpp"
#include "stages/augment/types.hpp"
#include "store/library.hpp"

namespace divergen::stages {

/// Which instances of a library may be pasted, by class. Cheap to copy; thread-safe.
class InstancePool {
 public:
  /// `class_of`: category id -> 0-based class. Keeps the instances that `training` allows: of the named generators, of
  /// categories of the named frequency groups, of extra ones or not, and of each category the first so many by item id.
  /// Throws Error(Config) for a generator that the library does not know, Error(Data) for a category that the
  /// categories file does not know.
  InstancePool(std::shared_ptr<const store::Library> library, const config::TrainSettings& training,
               const ClassMap& class_of);
  std::size_t size() const;
  /// Library entries, of non-empty classes in class order.
  const std::vector<std::vector<std::size_t>>& by_class() const;
  /// The classes of by_class().
  const std::vector<std::int64_t>& classes() const;
  const store::Library& library() const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

/// Whether samples get objects of other training images (semantics.md §7.3, §7.8): the reference's "both" is Also with
/// chance 1, its "p:x" is Instead with chance x, its "self_copy" is either without a pool.
struct SelfCopyUse {
  enum class Mode { Off, Also, Instead };  // not; on top of pasted instances; in their place
  Mode mode = Mode::Off;
  double chance = 1;
};
SelfCopyUse self_copy_of(const config::TrainSettings& training);

/// Thread-safe: make() may be called from many threads.
class SampleMaker {
 public:
  /// `pool` may be null: no pasting. The data set must outlive the maker. Images without an annotation that is not a
  /// crowd take no part. The order of images is that of detectron2's repeat-factor sampler for the same seed; all else
  /// is drawn from (seed, position), the pasting last, and self-copies from numbers of their own, so that trainings
  /// with and without a pool see the same crops. With self-copy an object keeps its source: pasted ones stay marked.
  /// `polygons`: objects come with polygons in place of masks; nothing can be pasted then.
  /// Throws Error(Config) for settings that cannot be followed, Error(Data) for a data set without a usable image, with
  /// a category that `class_of` does not know, or with a run-length mask where polygons are asked for.
  SampleMaker(const lvis::Dataset& dataset, Path images, const ClassMap& class_of, AreaStatistics area_statistics,
              const config::AugmentSettings& settings, std::shared_ptr<const InstancePool> pool, std::uint64_t seed,
              SelfCopyUse self_copy = {}, bool polygons = false);

  /// Sample `position` of the endless stream (position counts over epochs; all ranks share the stream: rank r of R
  /// takes positions r, r + R, ...). A picture that cannot be read is replaced by the next one of the stream's epoch
  /// and counted; so is an instance, by none. Throws Error(Data) when no picture of the epoch can be read.
  Sample make(std::uint64_t position) const;

  /// Whether the sample of `position` is wider than high after resize-crop, from the annotations alone: costs a
  /// microsecond and reads no picture. (A self-copy may make the canvas larger after that, and the replacement of an
  /// unreadable picture may have another shape.)
  bool is_wide(std::uint64_t position) const;

  /// Seconds that went into each part of making samples so far, over all threads; names in kLapNames.
  std::array<double, kLapNames.size()> lap_seconds() const;

  /// Which images of the data set (indices), and instances of the library (rows), could not be read so far. Ranks meet
  /// the same ones: their number in all is that of the union.
  std::set<std::size_t> unreadable_images() const;
  std::set<std::size_t> unreadable_instances() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Makes samples ahead in threads, hands them out in order of position, with bounded memory.
class SampleLoader {
 public:
  /// Positions first, first + stride, ... . At most `depth` (at least 1) samples are in work or waiting. With 0 threads
  /// next() makes the sample itself. The maker must outlive the loader.
  SampleLoader(const SampleMaker& maker, std::uint64_t first, std::uint64_t stride, std::int64_t threads,
               std::int64_t depth);
  /// The same with any function of position that may be called from many threads.
  SampleLoader(std::function<Sample(std::uint64_t)> make, std::uint64_t first, std::uint64_t stride,
               std::int64_t threads, std::int64_t depth);
  /// Waits for the samples in work.
  ~SampleLoader();
  /// Blocks until the next sample is there; rethrows what a thread threw on it, then and at every later call. From one
  /// thread at a time.
  Sample next();
  double waited_seconds() const;  // of next() in all

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace divergen::stages
