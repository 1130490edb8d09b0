#pragma once
// Decoded pictures that were used lately, bounded by bytes.

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "image/image.hpp"

namespace divergen::stages {

/// Least recently used goes first. Thread-safe. Pictures that are handed out live on outside.
class PictureCache {
 public:
  using Picture = std::shared_ptr<const image::Image>;
  explicit PictureCache(std::size_t most_bytes) : most_bytes_(most_bytes) {}

  /// The picture of `key`, made by `make` where it is not there. Two threads may make the same one at the same time. A
  /// null picture is returned, not kept.
  template <class Make>
  Picture get(std::size_t key, const Make& make) {
    if (Picture found = find(key)) return found;
    Picture made = make();
    if (made != nullptr) keep(key, made);
    return made;
  }

  std::size_t bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  struct Entry {
    std::size_t key;
    Picture picture;
  };

  Picture find(std::size_t key) {
    const std::lock_guard lock(mutex_);
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->picture;
  }

  void keep(std::size_t key, const Picture& picture) {
    const std::size_t size = picture->pixels.size();
    const std::lock_guard lock(mutex_);
    if (size > most_bytes_ || index_.contains(key)) return;
    entries_.push_front({key, picture});
    index_[key] = entries_.begin();
    bytes_ += size;
    while (bytes_ > most_bytes_) {
      bytes_ -= entries_.back().picture->pixels.size();
      index_.erase(entries_.back().key);
      entries_.pop_back();
    }
  }

  const std::size_t most_bytes_;
  mutable std::mutex mutex_;
  std::size_t bytes_ = 0;
  std::list<Entry> entries_;  // latest first
  std::unordered_map<std::size_t, std::list<Entry>::iterator> index_;
};

}  // namespace divergen::stages
