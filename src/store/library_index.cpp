#include "store/library_index.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "store/h5_reader.hpp"
#include "store/seal.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

constexpr const char* kRemedy = "remove it, then run `divergen pool` again: it is made from the shards";
/// An index of at most so many bytes is compared with its seal as a whole, which takes a few milliseconds.
constexpr std::uint64_t kSmall = 16 << 20;

Path index_of(const Path& folder) {
  const Path file = folder / kIndexName;
  if (!std::filesystem::exists(file))
    fail(ErrorKind::Data, {"not an instance library", folder.string(), cat("it holds no ", kIndexName),
                           "name the folder that `divergen pool` made, or run that stage first"});
  if (std::filesystem::file_size(file) <= kSmall) check_seal(file);
  return file;
}

}  // namespace

LibraryIndex::LibraryIndex(const Path& folder) : folder_(folder), file_(index_of(folder)) {
  read_columns();
  read_shards();
  map_heap();
}

LibraryIndex::~LibraryIndex() {
  if (map_ != nullptr) ::munmap(const_cast<char*>(map_), map_size_);
}

void LibraryIndex::damaged(const std::string& object, const std::string& why) const {
  fail(ErrorKind::Data,
       {"the index of a library is damaged", cat((folder_ / kIndexName).string(), object), why, kRemedy});
}

void LibraryIndex::read_columns() {
  const Table& table = file_.columns();
  check_format(table, kIndexFormat);
  const auto& counts = table.get<std::int64_t>("instances");
  const auto& hashes = table.get<std::uint64_t>(h5::kRowHash);
  const auto& offsets = table.get<std::uint64_t>(h5::kHeapOffset);
  const auto& lengths = table.get<std::uint64_t>(h5::kHeapLength);
  if (table.table_hash(hashes) != file_.head().table_hash)
    damaged("", "its contents do not have the hash that was recorded for the table");
  categories_ = table.get<std::int32_t>("category");
  Table rows(table.format(), table.version());
  rows.add("category", categories_);
  rows.add("instances", counts);
  row_bytes_hash_ = rows.row_hashes();
  starts_.push_back(0);
  for (std::size_t c = 0; c < categories_.size(); ++c) {
    const auto count = static_cast<std::uint64_t>(counts[c]);
    if (counts[c] < 0 || lengths[c] != count * sizeof(IndexEntry) || offsets[c] != starts_[c] * sizeof(IndexEntry) ||
        offsets[c] > file_.heap_size() || lengths[c] > file_.heap_size() - offsets[c])
      damaged(cat(" category ", categories_[c]),
              cat(lengths[c], " bytes at ", offsets[c], " for ", counts[c], " instances"));
    starts_.push_back(starts_[c] + count);
  }
  is_checked_ = std::make_unique<std::atomic<bool>[]>(categories_.size());
}

void LibraryIndex::read_shards() {
  try {
    for (const json& shard : json::parse(file_.columns().documents.at("shards")))
      shards_.push_back({shard.at("file"), shard.at("rows"), shard.at("table_hash")});
  } catch (const std::exception& error) {
    damaged(" document 'shards'", error.what());
  }
}

void LibraryIndex::map_heap() {
  if (file_.heap_size() == 0) return;
  if (file_.heap_piece() % sizeof(IndexEntry) != 0 && file_.heap_places().size() > 1)
    damaged(" heap", "its pieces cut entries apart");
  const h5::ReadOnly file(file_.path());
  map_size_ = std::filesystem::file_size(file_.path());
  void* map = ::mmap(nullptr, map_size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (map == MAP_FAILED) fail_errno("cannot map", file_.path().string(), errno);
  map_ = static_cast<const char*>(map);
}

std::size_t LibraryIndex::category_of(std::size_t entry) const {
  return static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), entry) - starts_.begin()) - 1;
}

IndexEntry LibraryIndex::entry(std::size_t category, std::size_t i) const {
  if (!is_checked_[category].load(std::memory_order_acquire)) check_category(category);
  const std::uint64_t at = i * sizeof(IndexEntry);
  IndexEntry out;
  // The places were checked against the file's size when it was opened.
  std::memcpy(&out, map_ + file_.heap_places()[at / file_.heap_piece()] + at % file_.heap_piece(), sizeof out);
  return out;
}

/// Two threads may do it at once, with the same result.
void LibraryIndex::check_category(std::size_t category) const {
  const std::uint64_t first = starts_[category] * sizeof(IndexEntry), last = starts_[category + 1] * sizeof(IndexEntry);
  std::string bytes;
  bytes.reserve(last - first);
  for (std::uint64_t at = first; at < last;) {
    const std::uint64_t within = at % file_.heap_piece(), count = std::min(last - at, file_.heap_piece() - within);
    bytes.append(map_ + file_.heap_places()[at / file_.heap_piece()] + within, count);
    at += count;
  }
  const std::string name = cat(" category ", categories_[category]);
  if (hash64(bytes, row_bytes_hash_[category]) != file_.columns().get<std::uint64_t>(h5::kRowHash)[category])
    damaged(name, "its entries do not have the hash that was recorded");
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(IndexEntry)) {
    IndexEntry entry;
    std::memcpy(&entry, bytes.data() + at, sizeof entry);
    if (entry.shard >= shards_.size() || entry.row >= shards_[entry.shard].rows)
      damaged(name, cat("it points to shard ", entry.shard, " row ", entry.row, ", which is not there"));
  }
  is_checked_[category].store(true, std::memory_order_release);
}

}  // namespace divergen::store
