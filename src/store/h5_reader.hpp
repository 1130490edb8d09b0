#pragma once
// Checked reading of one table file. Included only by .cpp files of src/store.

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "store/h5.hpp"
#include "store/table.hpp"

namespace divergen::store::h5 {

inline constexpr const char* kHeapOffset = "heap_offset";
inline constexpr const char* kHeapLength = "heap_length";
inline constexpr const char* kRowHash = "row_hash";

/// Throws Error(Data).
[[noreturn]] void damaged(const Path& path, const std::string& object, const std::string& why);
/// After a call of HDF5 failed: the system's error where there was one, else Error(Data).
[[noreturn]] void unreadable(const Path& path, const std::string& object);

/// An open file. Holds the library's mutex as long as it lives; every failure is an Error(Data) naming file and object.
class Reader {
 public:
  /// Throws Error(Io) when there is no such file.
  explicit Reader(const Path& path);

  std::map<std::string, std::string> attributes();
  std::vector<std::string> names(const char* group);
  bool has(const char* name) { return H5Lexists(file_.get(), name, H5P_DEFAULT) > 0; }
  template <class T>
  std::vector<T> dataset(const std::string& name);
  ColumnValues column(const std::string& name);

  /// Where the chunks of a one-dimensional dataset lie in the file.
  struct Chunks {
    std::uint64_t size = 0, chunk = 0;   // bytes of the dataset, and of each chunk of it
    std::vector<std::uint64_t> address;  // of each chunk, from the start of the file
  };
  /// Throws Error(Data) when a chunk is absent, or another filter than the checksum is
  /// in use.
  Chunks chunks(const std::string& name);

  /// A column whose checksum does not fit, as its bytes stand in the file.
  ColumnValues column_unchecked(const std::string& name);

 private:
  hsize_t size(hid_t id, const std::string& name);
  Handle take(hid_t id, Handle::Closer closer, const std::string& object);

  std::lock_guard<std::mutex> lock_;  // first, so that the handles are closed under it
  Path path_;
  Handle file_;
};

/// Bytes [at, at + count) of a dataset laid out so. Throws Error(Io | Data).
void read_chunked(int fd, const Reader::Chunks& chunks, std::uint64_t at, std::uint64_t count, char* to,
                  const Path& path);

/// An open descriptor that closes itself.
class ReadOnly {
 public:
  explicit ReadOnly(const Path& path);  // Throws Error(Io).
  ~ReadOnly();
  ReadOnly(const ReadOnly&) = delete;
  ReadOnly& operator=(const ReadOnly&) = delete;
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

/// Takes what every table has out of the attributes; the rest is the writer's.
TableHead take_head(std::map<std::string, std::string>& attributes, const Path& path);

}  // namespace divergen::store::h5
