#pragma once
// The instance library: RGBA cut-outs with full provenance, in shards (store/table.hpp) under one folder, with an index
// that makes them one. Format contract: data/README.md. h5py opens any shard without this code.
//
// Opening reads the index alone, never the rows of the shards; reading an instance is one seek.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "store/table.hpp"

namespace divergen::store {

inline constexpr const char* kLibraryFormat = "divergen-instances";
inline constexpr int kLibraryVersion = 1;

/// One instance with everything that is known of it.
struct Instance {
  std::uint64_t item_id = 0, seed = 0;
  std::int32_t category_id = 0;      // as in the data set (LVIS: 1-based)
  std::int32_t generator = 0;        // index into the library's generators
  std::int32_t prompt = 0;           // index into the library's prompts
  std::int32_t sample = 0;
  std::int32_t width = 0, height = 0;            // of the cut-out, px
  std::int32_t box_x = 0, box_y = 0;             // its place in the generated picture
  std::int32_t source_width = 0, source_height = 0;  // of the generated picture
  std::int64_t area = 0;             // px with alpha above the pool's threshold
  float similarity = 0, clip_score = 0;
  std::string png;                   // RGBA
};

struct LibraryCategory {
  std::int32_t id = 0;
  std::string name, frequency;
  bool is_extra = false;
};
struct LibraryGenerator {
  std::string name, kind, sampler, weights_hash;
  std::int64_t steps = 0;
  double guidance = 0;
};
/// The tables that instances point into, equal in all shards of a library.
struct LibraryTables {
  std::vector<LibraryCategory> categories;
  std::vector<LibraryGenerator> generators;
  std::vector<std::string> prompts;
  std::string annotator_hash, clip_hash, config_hash, software;
};

/// One shard, whole or not at all. At most 4,096 instances. Throws Error(NoSpace | Io).
void write_library_shard(const Path& file, const std::vector<Instance>& instances, const LibraryTables& tables);
/// Reads and checks all rows. Throws Error(Data).
std::vector<Instance> read_library_shard(const Path& file, LibraryTables* tables = nullptr);

/// Writes index.h5 over all shard-*.h5 of the folder: per-category lists of (shard, row) with their sizes, and the
/// library hash. A pure function of the shards.
void write_library_index(const Path& folder);

/// Read access. Thread-safe after construction (each read opens or reuses a per-thread file handle).
class Library {
 public:
  /// Throws Error(Io | Data).
  explicit Library(const Path& folder);
  ~Library();

  std::size_t size() const;
  /// Order-independent over record hashes (sum of mixed row hashes), 32 hex digits: equal hash = equal instances,
  /// whatever the sharding.
  const std::string& hash() const;
  const LibraryTables& tables() const;

  /// What can be known of an instance without reading its shard.
  struct Entry {
    std::int32_t category_id = 0, generator = 0, width = 0, height = 0;
    std::uint32_t shard = 0, row = 0;
    float similarity = 0;
  };
  /// Sorted by (category, item id).
  const std::vector<Entry>& entries() const;

  /// PNG bytes of entry `i`, checked against its record hash. Throws Error(Io | Data) naming shard, row.
  std::string read_png(std::size_t i) const;
  /// The whole record of entry `i`.
  Instance read(std::size_t i) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace divergen::store
