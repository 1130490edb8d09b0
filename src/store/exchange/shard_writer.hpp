#pragma once
// A new library, instance by instance.

#include <unordered_set>

#include "store/exchange/output.hpp"
#include "store/library.hpp"

namespace divergen::store {

/// Collects instances into shards of at most kShardRows rows and 1 GB, all with one set of tables at a time. Items must
/// be unique; the caller sees to it.
class ShardWriter {
 public:
  explicit ShardWriter(const Path& out) : folder_(out) {}

  /// Instances from now on have these tables. Categories and generators must be the same for all.
  void use(LibraryTables tables) {
    flush();
    tables_ = std::move(tables);
  }
  const LibraryTables& tables() const { return tables_; }
  void add(Instance instance);
  std::int64_t instances() const { return count_; }
  /// Writes the rest and the index, and gives the folder its name. Returns the library's hash. Throws Error(Data) when
  /// there is no instance.
  std::string finish();

 private:
  void flush();

  OutputFolder folder_;
  LibraryTables tables_;
  std::vector<Instance> waiting_;
  std::uint64_t bytes_ = 0;
  std::size_t shards_ = 0;
  std::int64_t count_ = 0;
};

}  // namespace divergen::store
