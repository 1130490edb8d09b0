#pragma once
// Training samples: an image of the data set after resize-crop and flip, with generated instances pasted in
// (reference/semantics.md §7, augmentation.md). A sample is a pure function of (seed, epoch, position). No LibTorch.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "image/image.hpp"
#include "lvis/dataset.hpp"
#include "stages/augment/types.hpp"
#include "store/library.hpp"

namespace divergen::stages {

/// Which instances of a library may be pasted, by class.
class InstancePool {
 public:
  /// `class_of`: category id -> 0-based class. Keeps the instances that `training` allows (generators, extra
  /// categories, number a category).
  InstancePool(std::shared_ptr<const store::Library> library, const config::TrainSettings& training,
               const ClassMap& class_of);
  std::size_t size() const;
  const std::vector<std::vector<std::size_t>>& by_class()
      const;  // library entries, of non-empty classes in class order
  const store::Library& library() const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

/// Thread-safe: make() may be called from many threads.
class SampleMaker {
 public:
  /// `pool` may be null: no pasting. The data set must outlive the maker.
  SampleMaker(const lvis::Dataset& dataset, Path images, const ClassMap& class_of, AreaStatistics area_statistics,
              const config::AugmentSettings& settings, std::shared_ptr<const InstancePool> pool, std::uint64_t seed);

  /// Sample `position` of the endless stream (position counts over epochs; all ranks share the stream: rank r of R
  /// takes positions r, r + R, ...). A picture that cannot be read is replaced by the next one of the stream's epoch
  /// and counted.
  Sample make(std::uint64_t position) const;

  std::int64_t unreadable_images() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Makes samples ahead in threads, hands them out in order of position, with bounded memory.
class SampleLoader {
 public:
  /// Positions first, first + stride, ...
  SampleLoader(const SampleMaker& maker, std::uint64_t first, std::uint64_t stride, std::int64_t threads,
               std::int64_t depth);
  ~SampleLoader();
  /// Blocks until the next sample is there; rethrows what a thread threw.
  Sample next();
  double waited_seconds() const;  // of next() in all

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace divergen::stages
