#include "store/salvage.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"
#include "base/hash.hpp"

namespace divergen::store {
namespace {

constexpr const char* kFormat = "divergen-kept-rows";
constexpr int kVersion = 1;
constexpr const char* kPlace = "kept_place";
constexpr const char *kOriginalFormat = "kept_format", *kOriginalVersion = "kept_version", *kTotal = "kept_total",
                     *kHash = "kept_hash";
constexpr std::string_view kShardPrefix = "shard-", kKeptPrefix = "kept-";

[[noreturn]] void not_kept_rows(const Path& path, const std::string& why) {
  fail(ErrorKind::Data, {"the kept rows of a damaged shard cannot be used", path.string(), why,
                         "remove the file: the whole shard is then made again"});
}

std::string take(Table& table, const char* name, const Path& path) {
  const auto found = table.attributes.find(name);
  if (found == table.attributes.end()) not_kept_rows(path, cat("the attribute '", name, "' is missing"));
  std::string value = found->second;
  table.attributes.erase(found);
  return value;
}

std::uint64_t number(const std::string& text, int base, const Path& path) {
  std::size_t used = 0;
  try {
    const std::uint64_t value = std::stoull(text, &used, base);
    if (used == text.size()) return value;
  } catch (const std::exception&) {  // no number, or too large a one
  }
  not_kept_rows(path, cat("'", text, "' is no number"));
}

/// The columns and the heap of `table`, without the column `without`, under another format.
Table copy_as(const Table& table, const std::string& format, int version, std::string_view without) {
  Table out(format, version);
  for (const Column& column : table.columns())
    if (column.name != without) std::visit([&](const auto& values) { out.add(column.name, values); }, column.values);
  if (table.has_heap()) {
    std::vector<std::string> heap;
    for (std::size_t row = 0; row < table.rows(); ++row) heap.emplace_back(table.heap(row));
    out.set_heap(heap);
  }
  out.attributes = table.attributes;
  out.documents = table.documents;
  return out;
}

}  // namespace

void write_kept_rows(const KeptRows& kept, const Path& path) {
  DIVERGEN_CHECK(kept.places.size() == kept.rows.rows() && kept.places.size() <= kept.total, kept.places.size());
  Table table = copy_as(kept.rows, kFormat, kVersion, "");
  table.add(kPlace, std::vector<std::uint64_t>(kept.places.begin(), kept.places.end()));
  table.attributes[kOriginalFormat] = kept.rows.format();
  table.attributes[kOriginalVersion] = std::to_string(kept.rows.version());
  table.attributes[kTotal] = std::to_string(kept.total);
  table.attributes[kHash] = to_hex(kept.table_hash);
  write_table(table, path);
}

KeptRows read_kept_rows(const Path& path) {
  Table table = read_table(path);
  if (table.format() != kFormat || table.version() != kVersion)
    not_kept_rows(path, cat("it is '", table.format(), "' version ", table.version()));
  const std::string format = take(table, kOriginalFormat, path);
  const auto version = static_cast<int>(number(take(table, kOriginalVersion, path), 10, path));
  KeptRows kept;
  kept.total = number(take(table, kTotal, path), 10, path);
  kept.table_hash = number(take(table, kHash, path), 16, path);
  for (const std::uint64_t place : table.get<std::uint64_t>(kPlace)) {
    if (place >= kept.total || (!kept.places.empty() && place <= kept.places.back()))
      not_kept_rows(path, cat("place ", place, " of ", kept.total, " rows"));
    kept.places.push_back(place);
  }
  kept.rows = copy_as(table, format, version, kPlace);
  return kept;
}

Table select_rows(const Table& table, const std::vector<std::size_t>& places) {
  Table out(table.format(), table.version());
  for (const Column& column : table.columns())
    std::visit(
        [&](const auto& values) {
          std::decay_t<decltype(values)> some;
          for (const std::size_t place : places) some.push_back(values.at(place));
          out.add(column.name, std::move(some));
        },
        column.values);
  if (table.has_heap()) {
    std::vector<std::string> heap;
    for (const std::size_t place : places) heap.emplace_back(table.heap(place));
    out.set_heap(heap);
  }
  out.attributes = table.attributes;
  out.documents = table.documents;
  return out;
}

Table merge_rows(const Table& made, const KeptRows& kept) {
  const auto differ = [&](const std::string& why) {
    fail(ErrorKind::Data, {"a mended shard is not of the kind that it was", cat("a '", made.format(), "' table"), why,
                           "remove its kept rows (kept-*.h5): the whole shard is then made again"});
  };
  if (made.rows() != kept.total || made.format() != kept.rows.format() || made.version() != kept.rows.version() ||
      made.columns().size() != kept.rows.columns().size() || made.has_heap() != kept.rows.has_heap())
    differ(cat("it has ", made.rows(), " rows and ", made.columns().size(), " columns, and had ", kept.total, " and ",
               kept.rows.columns().size()));
  Table out(made.format(), made.version());
  for (std::size_t c = 0; c < made.columns().size(); ++c) {
    const Column &now = made.columns()[c], &then = kept.rows.columns()[c];
    if (now.name != then.name || now.values.index() != then.values.index()) differ(cat("column '", now.name, "'"));
    std::visit(
        [&](auto values) {
          const auto& old = std::get<std::decay_t<decltype(values)>>(then.values);
          for (std::size_t i = 0; i < kept.places.size(); ++i) values[kept.places[i]] = old[i];
          out.add(now.name, std::move(values));
        },
        now.values);
  }
  if (made.has_heap()) {
    std::vector<std::string> heap;
    for (std::size_t row = 0; row < made.rows(); ++row) heap.emplace_back(made.heap(row));
    for (std::size_t i = 0; i < kept.places.size(); ++i) heap[kept.places[i]] = kept.rows.heap(i);
    out.set_heap(heap);
  }
  out.attributes = kept.rows.attributes;
  out.documents = kept.rows.documents;
  return out;
}

Path kept_rows_file(const Path& shard) {
  const std::string name = shard.filename().string();
  if (!name.starts_with(kShardPrefix)) return {};
  return shard.parent_path() / (std::string(kKeptPrefix) + name.substr(kShardPrefix.size()));
}

}  // namespace divergen::store
