// HDF5 file -> Table, with everything checked.

#include <utility>

#include "base/hash.hpp"
#include "base/system_error.hpp"
#include "store/h5.hpp"
#include "store/h5_reader.hpp"
#include "store/seal.hpp"
#include "store/table.hpp"
#include "store/table_parts.hpp"

namespace divergen::store {

using h5::damaged;
using h5::kHeapLength;
using h5::kHeapOffset;
using h5::kRowHash;
using h5::Reader;

Table read_unsealed_table(const Path& path, std::vector<std::uint64_t>* row_hashes) {
  Table table;
  TableHead head;
  std::vector<std::uint64_t> hashes;
  Reader::Chunks chunks;
  {
    Reader reader(path);
    auto attributes = reader.attributes();
    head = h5::take_head(attributes, path);
    table = Table(head.format, head.version);
    table.attributes = std::move(attributes);
    for (const std::string& name : reader.names("columns")) {
      if (name == kHeapOffset || name == kHeapLength) continue;
      ColumnValues values = reader.column("columns/" + name);
      const std::size_t length = std::visit([](const auto& v) { return v.size(); }, values);
      if (length != head.rows) damaged(path, "columns/" + name, cat("has ", length, " rows, not ", head.rows));
      if (name == kRowHash) {
        if (!std::holds_alternative<std::vector<std::uint64_t>>(values)) damaged(path, "columns/" + name, "not uint64");
        hashes = std::move(std::get<std::vector<std::uint64_t>>(values));
        continue;
      }
      table.columns_.push_back({name, std::move(values)});  // names come sorted, as add_column keeps them
    }
    table.rows_ = head.rows;
    if (reader.has("heap")) {
      table.has_heap_ = true;
      table.offsets_ = reader.dataset<std::uint64_t>(cat("columns/", kHeapOffset));
      table.lengths_ = reader.dataset<std::uint64_t>(cat("columns/", kHeapLength));
      chunks = reader.chunks("heap");
    }
    for (const std::string& name : reader.names("documents")) {
      const auto bytes = reader.dataset<std::uint8_t>("documents/" + name);
      table.documents[name].assign(bytes.begin(), bytes.end());
    }
  }
  // From here on without HDF5 and its lock: other threads read their files meanwhile.
  if (table.has_heap_) {
    if (table.offsets_.size() != head.rows || table.lengths_.size() != head.rows)
      damaged(path, "heap", "its index has another length");
    // Straight from where HDF5 put it: the rows' hashes are the stronger check, and much faster than HDF5's.
    const h5::ReadOnly file(path);
    table.heap_.resize(chunks.size);
    h5::read_chunked(file.get(), chunks, 0, chunks.size, table.heap_.data(), path);
    for (std::size_t i = 0; i < head.rows; ++i)
      if (table.offsets_[i] > table.heap_.size() || table.lengths_[i] > table.heap_.size() - table.offsets_[i])
        damaged(path, cat("row ", i), "its bytes lie outside the heap");
  }
  if (hashes.size() != head.rows) damaged(path, cat("columns/", kRowHash), "it is missing");
  std::vector<std::uint64_t> actual = table.row_hashes();
  for (std::size_t i = 0; i < head.rows; ++i)
    if (actual[i] != hashes[i])
      damaged(path, cat("row ", i), "its contents do not have the hash that was recorded for them");
  if (table.table_hash(actual) != head.table_hash)
    damaged(path, "", "its contents do not have the hash that was recorded for the table");
  if (row_hashes != nullptr) *row_hashes = std::move(actual);
  return table;
}

Table read_table(const Path& path) {
  Table table;
  with_retries("reading " + path.string(), [&] {
    if (std::filesystem::exists(path)) check_seal(path);  // the reader says what to do when it does not exist
    table = read_unsealed_table(path);
  });
  return table;
}

std::optional<std::string> verify_table(const Path& path) {
  try {
    read_table(path);
    return std::nullopt;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data && error.kind() != ErrorKind::Io) throw;
    return cat(error.text().object, ": ", error.text().why);
  }
}

TableHead read_table_head(const Path& path) {
  TableHead head;
  with_retries("reading " + path.string(), [&] {
    if (std::filesystem::exists(path)) check_frame(path);
    Reader reader(path);
    auto attributes = reader.attributes();
    head = h5::take_head(attributes, path);
    head.attributes = std::move(attributes);
  });
  return head;
}

}  // namespace divergen::store
