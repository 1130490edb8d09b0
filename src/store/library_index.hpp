#pragma once
// The index of a library, mapped into memory: opening reads its columns and texts, and an instance's entry is brought
// in when it is asked for. What a library takes does not grow with the number of its instances.
//
// Nothing is believed unchecked: the table's hash covers the hashes of its rows (one a category) and the texts, and a
// category's entries are checked against their row's hash before the first of them is given out.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/library_format.hpp"
#include "store/table_file.hpp"

namespace divergen::store {

class LibraryIndex {
 public:
  /// Throws Error(Io | Data).
  explicit LibraryIndex(const Path& folder);
  ~LibraryIndex();
  LibraryIndex(const LibraryIndex&) = delete;
  LibraryIndex& operator=(const LibraryIndex&) = delete;

  std::size_t size() const { return starts_.back(); }
  /// Categories that have instances, ascending, and where the entries of each begin (one more than categories).
  const std::vector<std::int32_t>& categories() const { return categories_; }
  const std::vector<std::size_t>& starts() const { return starts_; }
  std::size_t category_of(std::size_t entry) const;

  /// Entry `i` of the category at this place. Thread-safe. Throws Error(Data) when the category is damaged.
  IndexEntry entry(std::size_t category, std::size_t i) const;

  /// Columns, texts and attributes.
  const Table& table() const { return file_.columns(); }

  struct Shard {
    std::string name;
    std::uint64_t rows = 0;
    std::string table_hash;
  };
  const std::vector<Shard>& shards() const { return shards_; }

 private:
  void read_columns();
  void read_shards();
  void map_heap();
  void check_category(std::size_t category) const;
  [[noreturn]] void damaged(const std::string& object, const std::string& why) const;

  Path folder_;
  TableFile file_;
  std::vector<std::int32_t> categories_;
  std::vector<std::size_t> starts_;
  std::vector<std::uint64_t> row_bytes_hash_;  // of each category's columns; goes on over its entries
  std::vector<Shard> shards_;
  const char* map_ = nullptr;
  std::size_t map_size_ = 0;
  std::unique_ptr<std::atomic<bool>[]> is_checked_;
};

}  // namespace divergen::store
