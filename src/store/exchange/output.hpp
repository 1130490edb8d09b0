#pragma once
// Folders that an export or an import fills: made under another name, flushed and renamed when complete, so that one
// with its own name is whole. Files in it are not flushed one by one: there may be a million of them.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "base/fs.hpp"

namespace divergen::store {

class OutputFolder {
 public:
  /// Throws Error(Usage) when `path` is there and not an empty folder, Error(Io | NoSpace).
  explicit OutputFolder(const Path& path);
  /// Removes what was not committed.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  /// The folder to write into, until commit().
  const Path& part() const { return part_; }
  /// The name that it is going to have.
  const Path& path() const { return path_; }
  /// Writes a whole file at this relative place; its folder must be there.
  void write(const Path& relative, std::string_view bytes) const;
  /// Flushes all of it and gives it its name. Throws Error(Io | NoSpace).
  void commit();

 private:
  Path path_, part_;
  bool is_committed_ = false;
};

/// SHA-256 of bytes that come in pieces, for descriptions that want it.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void add(std::string_view bytes);
  std::string hex();  // once, at the end

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A file that is written from its start to its end, with its SHA-256. Throws Error(Io | NoSpace).
class FileStream {
 public:
  explicit FileStream(const Path& path);
  ~FileStream();
  FileStream(const FileStream&) = delete;
  FileStream& operator=(const FileStream&) = delete;
  void write(std::string_view bytes);
  std::uint64_t size() const { return size_; }
  /// Closes it and returns the hash.
  std::string close();

 private:
  Path path_;
  std::FILE* file_ = nullptr;
  std::uint64_t size_ = 0;
  Sha256 hash_;
};

}  // namespace divergen::store
