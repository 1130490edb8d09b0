// The index over the shards of a library, and reading through it.

#include "store/library.hpp"

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "store/library_format.hpp"
#include "store/library_index.hpp"
#include "store/table_file.hpp"
#include "store/table_stream.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

/// Open shards at one time: bounds file descriptors (1,024 by default on Linux) and memory.
constexpr std::size_t kOpenShards = 256;

// ---- writing the index ---------------------------------------------------------------------------------------------

[[noreturn]] void contradiction(const Path& file, const std::string& why) {
  fail(ErrorKind::Data, {"the shards of a library do not fit together", file.string(), why,
                         "remove the shards that are not of this library, then run `divergen pool` again"});
}

/// Adds a shard's tables to those of the library; what both have must be equal.
void merge_tables(LibraryTables& all, const LibraryTables& one, const Path& file) {
  const auto key = [](const LibraryTables& tables) {
    Table table;
    tables_to_documents(tables, table);
    return table.documents["categories"] + table.documents["generators"];
  };
  if (all.categories.empty() && all.generators.empty()) {
    all = one;
    return;
  }
  if (key(all) != key(one)) contradiction(file, "its categories or generators differ from those of the first shard");
  if (one.prompts.size() > all.prompts.size()) all.prompts.resize(one.prompts.size());
  for (std::size_t i = 0; i < one.prompts.size(); ++i) {
    if (one.prompts[i].empty()) continue;
    if (!all.prompts[i].empty() && all.prompts[i] != one.prompts[i])
      contradiction(file, cat("its prompt ", i, " differs from that of an earlier shard"));
    all.prompts[i] = one.prompts[i];
  }
}

struct Index {
  LibraryTables tables;
  std::map<std::int32_t, std::vector<IndexEntry>> entries;  // by category
  LibraryHash hash;
  json shards = json::array();
  std::unordered_set<std::uint64_t> items;
};

void add_shard(Index& index, const Path& path, std::uint32_t number) {
  const TableFile file(path);
  const Table& table = file.columns();
  check_format(table, kLibraryFormat);
  const LibraryTables tables = documents_to_tables(table);
  merge_tables(index.tables, tables, path);
  const auto& offsets = table.get<std::uint64_t>("heap_offset");
  const auto& lengths = table.get<std::uint64_t>("heap_length");
  for (std::size_t row = 0; row < table.rows(); ++row) {
    const Instance instance = instance_without_png(table, row);
    check_record(instance, tables, table, row, path);  // covers all columns, and the picture's hash
    if (lengths[row] > 0xffffffffu || offsets[row] > file.heap_size() || lengths[row] > file.heap_size() - offsets[row])
      contradiction(path, cat("the picture of row ", row, " lies outside the file"));
    if (!index.items.insert(instance.item_id).second)
      contradiction(path, cat("row ", row, " is item ", to_hex(instance.item_id), ", which another row is too"));
    IndexEntry entry;
    entry.item_id = instance.item_id;
    entry.heap_offset = offsets[row];
    entry.heap_length = static_cast<std::uint32_t>(lengths[row]);
    entry.png_hash = table.get<std::uint64_t>("png_hash")[row];
    entry.record_hash = table.get<std::uint64_t>("record_hash")[row];
    entry.shard = number;
    entry.row = static_cast<std::uint32_t>(row);
    entry.flags = instance.flags;
    entry.width = instance.width;
    entry.height = instance.height;
    entry.generator = instance.generator;
    entry.similarity = instance.similarity;
    index.entries[instance.category_id].push_back(entry);
    index.hash.add(entry.record_hash);
  }
  index.shards.push_back(
      {{"file", path.filename().string()}, {"rows", table.rows()}, {"table_hash", to_hex(file.head().table_hash)}});
}

}  // namespace

void write_library_index(const Path& folder) {
  Index index;
  std::uint32_t number = 0;
  for (const Path& file : library_shards(folder)) add_shard(index, file, number++);
  if (number == 0)
    fail(ErrorKind::Data,
         {"cannot index a library", folder.string(), "it holds no shard-*.h5", "run `divergen pool` on its run"});

  Table table(kIndexFormat, kLibraryVersion);
  std::vector<std::int32_t> categories;
  std::vector<std::int64_t> counts;
  std::vector<std::uint64_t> lengths;
  std::vector<const std::vector<IndexEntry>*> lists;
  for (auto& [category, entries] : index.entries) {
    std::sort(entries.begin(), entries.end(),
              [](const IndexEntry& a, const IndexEntry& b) { return a.item_id < b.item_id; });
    categories.push_back(category);
    counts.push_back(static_cast<std::int64_t>(entries.size()));
    lengths.push_back(entries.size() * sizeof(IndexEntry));
    lists.push_back(&entries);
  }
  table.add("category", std::move(categories));
  table.add("instances", std::move(counts));
  tables_to_documents(index.tables, table);
  json prompts = json::object();
  for (std::size_t i = 0; i < index.tables.prompts.size(); ++i)
    if (!index.tables.prompts[i].empty()) prompts[std::to_string(i)] = index.tables.prompts[i];
  table.documents["prompts"] = prompts.dump();
  table.documents["shards"] = index.shards.dump();
  table.attributes["library_hash"] = index.hash.hex();
  table.attributes["instances"] = std::to_string(index.items.size());
  write_streamed_table(
      table, lengths,
      [&](std::size_t row) {
        return std::string_view(reinterpret_cast<const char*>(lists[row]->data()), lengths[row]);
      },
      folder / kIndexName);
}

// ---- reading -------------------------------------------------------------------------------------------------------

struct Library::State {
  explicit State(const Path& folder) : index(folder) {
    const auto& attributes = index.table().attributes;
    const auto found = attributes.find("library_hash");
    if (found == attributes.end())
      fail(ErrorKind::Data, {"the index of a library cannot be read", folder.string(), "it has no library_hash",
                             "remove it, then run `divergen pool` again: it is made from the shards"});
    hash = found->second;
    for (std::size_t c = 0; c < index.categories().size(); ++c)
      per_category[index.categories()[c]] = static_cast<std::int64_t>(index.starts()[c + 1] - index.starts()[c]);
    for (const auto& shard : index.shards()) shards.push_back(folder / shard.name);
  }

  LibraryIndex index;
  std::string hash;
  std::map<std::int32_t, std::int64_t> per_category;
  std::vector<Path> shards;
  std::once_flag once;
  LibraryTables tables;  // parsed at the first use: prompts may be many

  // The most recently used shards, newest first. The lock covers only this list, never a read.
  std::mutex mutex;
  std::list<std::uint32_t> recent;
  struct Open {
    std::shared_ptr<const TableFile> file;
    std::list<std::uint32_t>::iterator place;
  };
  std::unordered_map<std::uint32_t, Open> open;

  IndexEntry entry(std::size_t i) const { return index.entry(index.category_of(i), i); }
  std::shared_ptr<const TableFile> shard(std::uint32_t number);
};

std::shared_ptr<const TableFile> Library::State::shard(std::uint32_t number) {
  {
    std::lock_guard lock(mutex);
    if (const auto found = open.find(number); found != open.end()) {
      recent.splice(recent.begin(), recent, found->second.place);
      return found->second.file;
    }
  }
  // Opened outside the lock: two threads may open the same shard at once, and one of the two is dropped.
  auto file = std::make_shared<const TableFile>(shards[number]);
  if (to_hex(file->head().table_hash) != index.shards()[number].table_hash)
    fail(ErrorKind::Data, {"a shard is another one than the library's index knows", shards[number].string(),
                           "it was made again after the index", "remove index.h5, then run `divergen pool` again"});
  std::lock_guard lock(mutex);
  if (const auto found = open.find(number); found != open.end()) return found->second.file;
  recent.push_front(number);
  open[number] = {file, recent.begin()};
  if (recent.size() > kOpenShards) {
    open.erase(recent.back());
    recent.pop_back();
  }
  return file;
}

Library::Library(const Path& folder) : state_(std::make_unique<State>(folder)) {}
Library::~Library() = default;

std::size_t Library::size() const { return state_->index.size(); }
const std::string& Library::hash() const { return state_->hash; }
const LibraryTables& Library::tables() const {
  std::call_once(state_->once, [&] { state_->tables = documents_to_tables(state_->index.table()); });
  return state_->tables;
}
const std::map<std::int32_t, std::int64_t>& Library::per_category() const { return state_->per_category; }
const std::vector<Path>& Library::shards() const { return state_->shards; }

Library::Entry Library::entry(std::size_t i) const {
  DIVERGEN_CHECK(i < size(), i, " of ", size());
  const std::size_t category = state_->index.category_of(i);
  const IndexEntry from = state_->index.entry(category, i);
  Entry out;
  out.item_id = from.item_id;
  out.record_hash = from.record_hash;
  out.category_id = state_->index.categories()[category];
  out.generator = from.generator;
  out.width = from.width;
  out.height = from.height;
  out.shard = from.shard;
  out.row = from.row;
  out.flags = from.flags;
  out.similarity = from.similarity;
  return out;
}

std::pair<std::size_t, std::size_t> Library::range_of(std::int32_t category_id) const {
  const auto& categories = state_->index.categories();
  const auto found = std::lower_bound(categories.begin(), categories.end(), category_id);
  if (found == categories.end() || *found != category_id) return {0, 0};
  const auto place = static_cast<std::size_t>(found - categories.begin());
  return {state_->index.starts()[place], state_->index.starts()[place + 1]};
}

std::string Library::read_png(std::size_t i) const {
  DIVERGEN_CHECK(i < size(), i, " of ", size());
  const IndexEntry entry = state_->entry(i);
  std::string bytes = state_->shard(entry.shard)->heap_bytes(entry.heap_offset, entry.heap_length);
  if (hash64(bytes) != entry.png_hash)
    fail(ErrorKind::Data,
         {"a picture of the library is damaged", cat(state_->shards[entry.shard].string(), " row ", entry.row),
          "its bytes do not have the hash that was recorded", "run `divergen repair` on its run"});
  return bytes;
}

Instance Library::read(std::size_t i) const {
  DIVERGEN_CHECK(i < size(), i, " of ", size());
  const IndexEntry entry = state_->entry(i);
  const auto shard = state_->shard(entry.shard);
  const Table& columns = shard->columns();
  check_format(columns, kLibraryFormat);
  Instance instance = instance_without_png(columns, entry.row);
  check_record(instance, tables(), columns, entry.row, shard->path());
  instance.png = read_png(i);
  if (instance.item_id != entry.item_id || columns.get<std::uint64_t>("png_hash")[entry.row] != entry.png_hash)
    fail(ErrorKind::Data,
         {"the index of a library does not fit its shard", cat(shard->path().string(), " row ", entry.row),
          "they name different items", "remove index.h5, then run `divergen pool` again"});
  return instance;
}

}  // namespace divergen::store
