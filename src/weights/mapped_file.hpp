#pragma once
// A file in memory without being read: the kernel brings in the pages that are touched.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/fs.hpp"

namespace divergen::weights {

/// Read-only bytes of a regular file. Thread-safe. The file must not be cut while it is mapped.
class MappedFile {
 public:
  /// Throws Error(Io) when it cannot be opened or is no regular file. An empty file has no bytes.
  explicit MappedFile(const Path& path);
  /// Bytes that the caller keeps alive, under a name for messages.
  MappedFile(std::span<const std::byte> bytes, Path name) : path_(std::move(name)), bytes_(bytes) {}
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const Path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  /// Gives the pages of a part of bytes() back; touching them again reads them from the file again.
  void release(std::span<const std::byte> part) const;

 private:
  Path path_;
  std::span<const std::byte> bytes_;
  bool is_mapped_ = false;
};

}  // namespace divergen::weights
