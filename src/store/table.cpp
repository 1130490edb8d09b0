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

void append_value(std::string& bytes, const ColumnValues& values, std::size_t row) {
  std::visit(
      [&](const auto& v) {
        char raw[sizeof v[row]];
        std::memcpy(raw, &v[row], sizeof v[row]);
        bytes.append(raw, sizeof raw);
      },
      values);
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

std::string_view Table::heap(std::size_t row) const {
  DIVERGEN_CHECK(has_heap_ && row < rows_);
  return std::string_view(heap_).substr(offsets_[row], lengths_[row]);
}

std::uint64_t Table::row_hash(std::size_t row) const {
  std::string bytes;
  for (const Column& column : columns_) {
    bytes.append(column.name).append(1, static_cast<char>(column.values.index()));
    append_value(bytes, column.values, row);
  }
  const std::uint64_t hash = hash64(bytes);
  return has_heap_ ? hash64(heap(row), hash) : hash;
}

std::uint64_t Table::table_hash() const {
  std::uint64_t hash = hash64(cat(format_, version_, ":", rows_));
  for (std::size_t i = 0; i < rows_; ++i) {
    const std::uint64_t row = row_hash(i);
    hash = hash64({reinterpret_cast<const char*>(&row), sizeof row}, hash);
  }
  for (const auto& [name, text] : documents) hash = hash64(text, hash64(name, hash));
  for (const auto& [name, text] : attributes) hash = hash64(text, hash64(name, hash));
  return hash;
}

}  // namespace divergen::store
