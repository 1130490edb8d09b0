#include "store/table.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "base/hash.hpp"

namespace divergen::store {
namespace {

std::size_t length_of(const ColumnValues& values) {
  return std::visit([](const auto& v) { return v.size(); }, values);
}

}  // namespace

const Column* Table::find(std::string_view name) const {
  for (const Column& column : columns_)
    if (column.name == name) return &column;
  return nullptr;
}

void Table::add_column(Column column) {
  DIVERGEN_CHECK(find(column.name) == nullptr, column.name);
  const std::size_t length = length_of(column.values);
  DIVERGEN_CHECK((columns_.empty() && !has_heap_) || length == rows_, column.name, ": ", length, " rows, not ", rows_);
  rows_ = length;
  // Sorted by name, as HDF5 lists them: hashes must not depend on the order in which columns were added.
  const auto after = std::upper_bound(columns_.begin(), columns_.end(), column.name,
                                      [](const std::string& name, const Column& other) { return name < other.name; });
  columns_.insert(after, std::move(column));
}

template <class T>
const std::vector<T>& Table::get(std::string_view name) const {
  const Column* column = find(name);
  const auto object = [&] { return cat("column '", name, "' of a '", format_, "' table"); };
  if (column == nullptr)
    fail(ErrorKind::Data, {"a column is missing", object(), "", "make the file again with this version of divergen"});
  const auto* values = std::get_if<std::vector<T>>(&column->values);
  if (values == nullptr)
    fail(ErrorKind::Data, {"a column has another type than its format says", object(), "",
                           "make the file again with this version of divergen"});
  return *values;
}
template const std::vector<std::int32_t>& Table::get(std::string_view) const;
template const std::vector<std::int64_t>& Table::get(std::string_view) const;
template const std::vector<std::uint8_t>& Table::get(std::string_view) const;
template const std::vector<std::uint32_t>& Table::get(std::string_view) const;
template const std::vector<std::uint64_t>& Table::get(std::string_view) const;
template const std::vector<float>& Table::get(std::string_view) const;
template const std::vector<double>& Table::get(std::string_view) const;

void Table::set_heap(const std::vector<std::string>& entries) {
  DIVERGEN_CHECK(columns_.empty() || entries.size() == rows_, entries.size(), " entries for ", rows_, " rows");
  rows_ = entries.size();
  has_heap_ = true;
  offsets_.clear();
  lengths_.clear();
  heap_.clear();
  for (const std::string& entry : entries) {
    offsets_.push_back(heap_.size());
    lengths_.push_back(entry.size());
    heap_ += entry;
  }
}

void Table::set_heap(std::string bytes, std::vector<std::uint64_t> lengths) {
  DIVERGEN_CHECK(columns_.empty() || lengths.size() == rows_, lengths.size(), " entries for ", rows_, " rows");
  rows_ = lengths.size();
  has_heap_ = true;
  offsets_.clear();
  std::uint64_t at = 0;
  for (const std::uint64_t length : lengths) {
    offsets_.push_back(at);
    at += length;
  }
  DIVERGEN_CHECK(at == bytes.size(), at, " bytes of entries, ", bytes.size(), " in the heap");
  lengths_ = std::move(lengths);
  heap_ = std::move(bytes);
}

std::string_view Table::heap(std::size_t row) const {
  if (!has_heap_)
    fail(ErrorKind::Data,
         {"a table's heap is missing", cat("a '", format_, "' table"), "its rows have no bytes besides their columns",
          "make the file again with this version of divergen"});
  DIVERGEN_CHECK(row < rows_, row, " of ", rows_);
  return std::string_view(heap_).substr(offsets_[row], lengths_[row]);
}

/// What a row's hash is made of, but for the heap: each column's name, type and value. All but the values is the same
/// in every row.
class Table::RowBytes {
 public:
  explicit RowBytes(const Table& table) : table_(table) {
    for (const Column& column : table.columns_) {
      bytes_.append(column.name).append(1, static_cast<char>(column.values.index()));
      places_.push_back(bytes_.size());
      bytes_.append(std::visit([](const auto& v) { return sizeof v[0]; }, column.values), '\0');
    }
  }
  std::uint64_t hash(std::size_t row) {
    for (std::size_t c = 0; c < places_.size(); ++c)
      std::visit([&](const auto& v) { std::memcpy(bytes_.data() + places_[c], &v[row], sizeof v[row]); },
                 table_.columns_[c].values);
    const std::uint64_t hash = hash64(bytes_);
    return table_.has_heap_ ? hash64(table_.heap(row), hash) : hash;
  }

 private:
  const Table& table_;
  std::string bytes_;
  std::vector<std::size_t> places_;
};

std::uint64_t Table::row_hash(std::size_t row) const {
  DIVERGEN_CHECK(row < rows_, row, " of ", rows_);
  return RowBytes(*this).hash(row);
}

std::vector<std::uint64_t> Table::row_hashes() const {
  RowBytes bytes(*this);
  std::vector<std::uint64_t> hashes(rows_);
  for (std::size_t i = 0; i < rows_; ++i) hashes[i] = bytes.hash(i);
  return hashes;
}

std::uint64_t Table::table_hash(std::span<const std::uint64_t> row_hashes) const {
  std::uint64_t hash = hash64(cat(format_, version_, ":", row_hashes.size()));
  for (const std::uint64_t row : row_hashes) hash = hash64({reinterpret_cast<const char*>(&row), sizeof row}, hash);
  for (const auto& [name, text] : documents) hash = hash64(text, hash64(name, hash));
  for (const auto& [name, text] : attributes) hash = hash64(text, hash64(name, hash));
  return hash;
}

}  // namespace divergen::store
