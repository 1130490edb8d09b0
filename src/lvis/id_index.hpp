#pragma once
// id -> position, for ids that a file gives: an open-addressing table, built once.

#include <cstdint>
#include <span>
#include <vector>

namespace divergen::lvis {

class IdIndex {
 public:
  struct Entry {
    std::int64_t first = 0;                             // the id
    std::size_t second = static_cast<std::size_t>(-1);  // its position; -1: a free slot
  };
  IdIndex() = default;
  /// Of ids that occur twice the last one counts.
  explicit IdIndex(std::span<const std::int64_t> ids);

  std::size_t size() const { return size_; }  // of different ids
  /// end() when there is none.
  const Entry* find(std::int64_t id) const;
  const Entry* end() const { return nullptr; }
  bool contains(std::int64_t id) const { return find(id) != nullptr; }
  /// Throws std::out_of_range.
  std::size_t at(std::int64_t id) const;

 private:
  std::size_t slot_of(std::int64_t id) const;
  std::vector<Entry> slots_;  // a power of two, at most half full
  std::size_t size_ = 0;
};

}  // namespace divergen::lvis
