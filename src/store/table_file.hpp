#pragma once
// Random access to the rows of one table file, without reading the rest of it.

#include <memory>
#include <mutex>
#include <string>

#include "store/table.hpp"

namespace divergen::store {

/// An open table file. Thread-safe after construction: bytes of the heap are read with one pread() each, straight from
/// where HDF5 put them, so that reading threads neither wait for HDF5's lock nor read whole checksummed chunks. The
/// caller checks them against a hash that the writer kept; everything else is checked here.
class TableFile {
 public:
  /// Checks all but the heap against the file's frame (store/seal.hpp), then reads attributes and the places of the
  /// heap's chunks. Throws Error(Io | Data).
  explicit TableFile(const Path& path);
  ~TableFile();
  TableFile(const TableFile&) = delete;
  TableFile& operator=(const TableFile&) = delete;

  const Path& path() const { return path_; }
  const TableHead& head() const { return head_; }
  std::uint64_t heap_size() const { return heap_size_; }
  /// The heap lies in the file in pieces of so many bytes, the last one padded to as many; and where each begins.
  std::uint64_t heap_piece() const { return chunk_; }
  const std::vector<std::uint64_t>& heap_places() const { return address_; }

  /// Bytes [offset, offset + length) of the heap. Throws Error(Io | Data).
  std::string heap_bytes(std::uint64_t offset, std::uint64_t length) const;

  /// The table without its heap: columns, attributes and documents; heap_offset, heap_length and row_hash are ordinary
  /// columns of it. Read at the first call and kept. The rows' hashes are not checked (they cover the heap).
  const Table& columns() const;
  /// Bytes of row `row`, by way of columns().
  std::string heap_of_row(std::size_t row) const;

 private:
  Path path_;
  TableHead head_;
  int fd_ = -1;
  std::uint64_t heap_size_ = 0, chunk_ = 0;
  std::vector<std::uint64_t> address_;
  mutable std::once_flag once_;
  mutable Table columns_;
};

/// Something wrong in a table file; `row` only where it can be told which, `column` ("columns/area", "heap",
/// "documents/prompts") where the checksums tell, "" elsewhere.
struct TableProblem {
  std::optional<std::size_t> row;
  std::string column, object, why;
};
/// Everything that is wrong with a file, row by row as far as it can still be read. Empty when it is whole.
std::vector<TableProblem> check_table(const Path& path);

}  // namespace divergen::store
