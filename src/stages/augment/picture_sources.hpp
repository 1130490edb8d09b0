#pragma once
// Where pictures come from: images of the data set and cut-outs of a library, decoded, with caches bounded by bytes.
// What cannot be read is reported once, counted, and never asked for again. Thread-safe.

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "lvis/dataset.hpp"
#include "stages/augment/paste.hpp"
#include "stages/augment/picture_cache.hpp"
#include "stages/augment/sample_maker.hpp"

namespace divergen::stages {

/// Things that could not be read, by index: each is logged once and counted once.
class Unreadable {
 public:
  explicit Unreadable(const char* kind) : kind_(kind) {}
  void add(std::size_t key, const std::string& object, const std::string& why);
  bool contains(std::size_t key) const;
  std::set<std::size_t> keys() const;

 private:
  const char* kind_;
  mutable std::mutex mutex_;
  std::set<std::size_t> keys_;
};

/// Images of a data set by their index in it.
class ImageSource {
 public:
  /// Keeps decoded pictures where all of `used` (indices) fit into `cache_bytes`: else each is wanted once an epoch,
  /// and keeping some is vain. The data set must outlive the source.
  ImageSource(const lvis::Dataset& dataset, Path folder, const std::vector<std::uint32_t>& used,
              std::size_t cache_bytes);
  /// RGB, upright; null where it cannot be read or is not of the size that the annotations say.
  PictureCache::Picture picture(std::size_t index) const;
  std::set<std::size_t> unreadable() const { return unreadable_.keys(); }
  const Path& folder() const { return folder_; }

 private:
  PictureCache::Picture read(std::size_t index) const;

  const lvis::Dataset& dataset_;
  Path folder_;
  std::unique_ptr<PictureCache> cache_;  // null: none is kept
  mutable Unreadable unreadable_{"an image"};
};

/// Instances of a library.
class PoolSource : public InstanceSource {
 public:
  PoolSource(std::shared_ptr<const InstancePool> pool, std::size_t cache_bytes);
  std::size_t classes() const override { return pool_->classes().size(); }
  std::int64_t cls(std::size_t index) const override { return pool_->classes()[index]; }
  std::size_t instances(std::size_t index) const override { return pool_->by_class()[index].size(); }
  Instance load(std::size_t index, std::size_t instance) const override;
  std::optional<Size> size(std::size_t index, std::size_t instance) const override;
  std::set<std::size_t> unreadable() const { return unreadable_.keys(); }

 private:
  PictureCache::Picture read(std::size_t entry) const;

  std::shared_ptr<const InstancePool> pool_;
  mutable PictureCache cache_;
  mutable Unreadable unreadable_{"an instance"};
};

}  // namespace divergen::stages
