#pragma once
// The container of every durable result: equal-length columns of fixed types, one byte heap, and a hash for each row.
//
// One HDF5 file holds one table (a shard). It is made in memory, written once, closed, reopened, compared, flushed and
// renamed (base/fs.hpp); a file that was open for writing is never published. Fletcher32 guards the chunks, and the
// rows' own hashes guard against what checksums cannot see: chunks that are absent and read as fill values.
//
// Layout, readable by h5py without this code:
//   attributes  format, version, rows, table_hash, and those given by the writer (strings)
//   /columns/<name>    1-D, `rows` long: int32 int64 uint8 uint32 uint64 float32 float64
//   /columns/heap_offset, heap_length, row_hash   uint64; only if the table has a heap / always
//   /heap              uint8; bytes of row i are heap[heap_offset[i] : heap_offset[i] + heap_length[i]]
//   /documents/<name>  uint8: UTF-8 JSON texts (tables of categories, prompts, generators ...)
//   after HDF5's end   a hash of all but the heap, and the seal, a hash of the whole file (store/seal.hpp)

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/fs.hpp"

namespace divergen::store {

using ColumnValues =
    std::variant<std::vector<std::int32_t>, std::vector<std::int64_t>, std::vector<std::uint8_t>,
                 std::vector<std::uint32_t>, std::vector<std::uint64_t>, std::vector<float>, std::vector<double>>;

struct Column {
  std::string name;
  ColumnValues values;
};

/// A table in memory. Not thread-safe.
class Table {
 public:
  Table() = default;
  Table(std::string format, int version) : format_(std::move(format)), version_(version) {}

  const std::string& format() const { return format_; }
  int version() const { return version_; }
  std::size_t rows() const { return rows_; }

  /// Adds a column; all columns must have the same length.
  template <class T>
  void add(std::string name, std::vector<T> values) {
    add_column({std::move(name), std::move(values)});
  }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  /// The values of a column. Throws Error(Data) when the column is absent or of another type.
  template <class T>
  const std::vector<T>& get(std::string_view name) const;
  const std::vector<Column>& columns() const { return columns_; }

  /// One entry for each row, in row order.
  void set_heap(const std::vector<std::string>& entries);
  /// The same from the entries' bytes one after another, and the length of each: without copying them.
  void set_heap(std::string bytes, std::vector<std::uint64_t> lengths);
  bool has_heap() const { return has_heap_; }
  /// The bytes of a row's entry. Throws Error(Data) where the table has no heap, as get() does for an absent column.
  std::string_view heap(std::size_t row) const;
  /// All entries one after another.
  std::string_view heap_bytes() const { return heap_; }

  std::map<std::string, std::string> attributes;
  std::map<std::string, std::string> documents;

  /// XXH3 over the names, types and values of row `row` of all columns and its heap bytes.
  std::uint64_t row_hash(std::size_t row) const;
  /// That of every row, in order: one pass over the table.
  std::vector<std::uint64_t> row_hashes() const;
  /// Hash over all rows in order, and their number, documents and attributes.
  std::uint64_t table_hash() const { return table_hash(row_hashes()); }
  /// The same when the rows' hashes are known already.
  std::uint64_t table_hash(std::span<const std::uint64_t> row_hashes) const;

 private:
  friend Table read_unsealed_table(const Path& path, std::vector<std::uint64_t>* row_hashes);
  class RowBytes;
  const Column* find(std::string_view name) const;
  void add_column(Column column);

  std::string format_;
  int version_ = 0;
  std::size_t rows_ = 0;
  std::vector<Column> columns_;
  bool has_heap_ = false;
  std::vector<std::uint64_t> offsets_, lengths_;
  std::string heap_;
};

/// Writes, verifies and publishes. Throws Error(NoSpace | Io); the old file, if any, is untouched then.
void write_table(const Table& table, const Path& path);

/// Reads and checks everything. Throws Error(Data) naming the file and what is wrong (dataset, row).
Table read_table(const Path& path);

/// Why a file is not a whole table, or nothing when it is: for resuming, verify and repair.
std::optional<std::string> verify_table(const Path& path);

/// Format name and number of rows, without reading columns. Throws Error(Data) when it is not a table.
struct TableHead {
  std::string format;
  int version = 0;
  std::size_t rows = 0;
  std::uint64_t table_hash = 0;
  std::map<std::string, std::string> attributes;
};
TableHead read_table_head(const Path& path);

}  // namespace divergen::store
