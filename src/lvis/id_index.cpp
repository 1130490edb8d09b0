#include "lvis/id_index.hpp"

#include <bit>
#include <stdexcept>
#include <string>

namespace divergen::lvis {

IdIndex::IdIndex(std::span<const std::int64_t> ids) : slots_(std::bit_ceil(2 * ids.size() + 2)) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    Entry& slot = slots_[slot_of(ids[i])];
    size_ += slot.second == static_cast<std::size_t>(-1);
    slot = {ids[i], i};
  }
}

std::size_t IdIndex::slot_of(std::int64_t id) const {
  // Fibonacci hashing: the upper bits of the product with 2^64 / golden ratio.
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = (static_cast<std::uint64_t>(id) * 0x9E3779B97F4A7C15U >> 32) & mask;
  while (slots_[at].second != static_cast<std::size_t>(-1) && slots_[at].first != id) at = (at + 1) & mask;
  return at;
}

const IdIndex::Entry* IdIndex::find(std::int64_t id) const {
  if (slots_.empty()) return nullptr;
  const Entry& slot = slots_[slot_of(id)];
  return slot.second == static_cast<std::size_t>(-1) ? nullptr : &slot;
}

std::size_t IdIndex::at(std::int64_t id) const {
  const Entry* found = find(id);
  if (found == nullptr) throw std::out_of_range("there is no id " + std::to_string(id));
  return found->second;
}

}  // namespace divergen::lvis
