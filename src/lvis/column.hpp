#pragma once
// A growing array of plain values that can also lie in memory of somebody else (one that ranks share).

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "base/error.hpp"

namespace divergen::lvis {

/// Unlike std::vector it grows in place where the system can (realloc moves pages, not bytes), so that the peak is the
/// array itself; memory that was reserved and never touched costs nothing.
template <class T>
class Column {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Column() = default;
  ~Column() { drop(); }
  Column(const Column& other) { append(other.span()); }
  Column(Column&& other) noexcept { swap(other); }
  Column& operator=(Column other) noexcept {
    swap(other);
    return *this;
  }
  /// Reads what somebody else keeps alive; such a column cannot grow.
  static Column borrow(std::span<const T> from) {
    Column out;
    out.data_ = const_cast<T*>(from.data());
    out.size_ = from.size();
    out.is_borrowed_ = true;
    return out;
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& back() const { return data_[size_ - 1]; }
  const T* data() const { return data_; }
  std::span<const T> span() const { return {data_, size_}; }

  void reserve(std::size_t capacity) {
    if (capacity <= capacity_) return;
    DIVERGEN_CHECK(!is_borrowed_, "a shared column cannot grow");
    void* place = std::realloc(data_, capacity * sizeof(T));
    if (place == nullptr) throw std::bad_alloc();
    data_ = static_cast<T*>(place);
    capacity_ = capacity;
  }
  void push_back(T value) {
    if (size_ == capacity_) reserve(size_ < 16 ? 16 : size_ + size_ / 2);
    data_[size_++] = value;
  }
  void append(std::span<const T> values) {
    if (values.empty()) return;
    if (size_ + values.size() > capacity_) reserve(std::max(size_ + values.size(), size_ + size_ / 2));
    std::memcpy(data_ + size_, values.data(), values.size_bytes());
    size_ += values.size();
  }
  void clear() {
    DIVERGEN_CHECK(!is_borrowed_, "a shared column cannot be emptied");
    size_ = 0;
  }
  void resize(std::size_t size) {  // new values are not set
    reserve(size);
    size_ = size;
  }
  /// Gives all memory back.
  void drop() {
    if (!is_borrowed_) std::free(data_);
    data_ = nullptr;
    size_ = capacity_ = 0;
    is_borrowed_ = false;
  }

 private:
  void swap(Column& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    std::swap(is_borrowed_, other.is_borrowed_);
  }

  T* data_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;
  bool is_borrowed_ = false;
};

}  // namespace divergen::lvis
