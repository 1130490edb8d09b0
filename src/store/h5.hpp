#pragma once
// RAII over the HDF5 C interface: each call is checked, and a failure becomes a typed error with HDF5's own words.
// Included only by .cpp files of src/store.

#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.hpp"
#include "base/fs.hpp"

namespace divergen::store::h5 {

/// The innermost message of HDF5's error stack, and clears it.
std::string take_error();
/// The number of the system call's failure that the last take_error() of this thread told of; 0 when it was none.
int last_errno();

/// Silences HDF5's printing to stderr for this thread; errors are fetched by take_error().
void quiet();

/// Held around every use of the library in this process: not every build of it may be called from two threads.
std::mutex& library_mutex();

/// An owned identifier. close() checks; the destructor only cleans up after an error.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), closer_(other.closer_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) closer_(id_);
  }
  hid_t get() const { return id_; }
  /// Returns whether HDF5 reported success.
  bool close() { return id_ < 0 || closer_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_ = -1;
  Closer closer_ = nullptr;
};

/// How every file is opened: without a lock. Locks fail on many cluster file systems, and no file is shared while it is
/// written.
Handle file_access();

/// HDF5's name of a column's type.
template <class T>
hid_t type_of() {
  if constexpr (std::is_same_v<T, std::int32_t>) return H5T_NATIVE_INT32;
  if constexpr (std::is_same_v<T, std::int64_t>) return H5T_NATIVE_INT64;
  if constexpr (std::is_same_v<T, std::uint8_t>) return H5T_NATIVE_UINT8;
  if constexpr (std::is_same_v<T, std::uint32_t>) return H5T_NATIVE_UINT32;
  if constexpr (std::is_same_v<T, std::uint64_t>) return H5T_NATIVE_UINT64;
  if constexpr (std::is_same_v<T, float>) return H5T_NATIVE_FLOAT;
  if constexpr (std::is_same_v<T, double>) return H5T_NATIVE_DOUBLE;
}

}  // namespace divergen::store::h5
