#pragma once
// The instance library: RGBA cut-outs with full provenance, in shards (store/table.hpp) under one folder, with an index
// that makes them one. Format contract: data/README.md. h5py opens any shard without this code.
//
// Opening reads the index alone, never the rows of the shards; reading an instance is one seek.

#include <compare>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fs.hpp"
#include "store/table.hpp"

namespace divergen::store {

inline constexpr const char* kLibraryFormat = "divergen-instances";
inline constexpr int kLibraryVersion = 1;

/// Bits of Instance::flags.
inline constexpr std::uint32_t kTouchesBorder = 1;  // the cut-out reaches the generated picture's border: maybe cut off
inline constexpr std::uint32_t kPartsDropped = 2;   // the mask had other parts than the one that was kept

/// A sample index tells the attempt, too: sample s at attempt a (0: as planned; n: the n-th further sample, of an item
/// whose pictures before were rejected) is s + a * kSamplesPerAttempt.
inline constexpr std::int32_t kSamplesPerAttempt = 1 << 20, kMostAttempts = 2047;
constexpr std::int32_t attempt_of(std::int32_t sample) { return sample / kSamplesPerAttempt; }

/// One instance with everything that is known of it.
struct Instance {
  std::uint64_t item_id = 0, seed = 0;
  std::int32_t category_id = 0;  // as in the data set (LVIS: 1-based)
  std::int32_t generator = 0;    // index into the library's generators
  std::int32_t prompt = 0;       // index into the library's prompts
  std::int32_t sample = 0;
  std::int32_t width = 0, height = 0;                // of the cut-out, px
  std::int32_t box_x = 0, box_y = 0;                 // its place in the generated picture
  std::int32_t source_width = 0, source_height = 0;  // of the generated picture
  std::int64_t area = 0;                             // px with alpha above the pool's threshold
  float similarity = 0, clip_score = 0;
  std::uint32_t flags = 0;
  // Where several annotators were chosen from: whose mask it is, and the logits of all of them. Not part of the hash.
  std::string annotator;
  std::vector<std::pair<std::string, float>> annotator_scores;
  std::string png;  // RGBA
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
  // What else the pictures depend on; not part of a record's hash.
  std::string negative_prompt;
  std::int64_t size = 0, batch = 0;  // px, 0: the model's own; items of one forward pass
  std::string software;              // that made the pictures: this program's version and LibTorch's
  bool operator==(const LibraryGenerator&) const = default;
};
/// The tables that instances point into. An index means the same in all shards of a library.
struct LibraryTables {
  std::vector<LibraryCategory> categories;
  std::vector<LibraryGenerator> generators;
  std::vector<std::string> prompts;  // read from a shard or an index: "" where no instance has the prompt
  // Of the shards' making, for provenance. config_hash covers the settings that decide the instances.
  std::string annotator_hash, clip_hash, config_hash, software;
};

/// XXH3 over everything of an instance with indices resolved to what they name (texts, weights), so that equal
/// instances have equal hashes in whatever library, shard and row. Byte for byte in data/README.md.
/// Throws Error(Data) when an index points outside the tables.
std::uint64_t record_hash(const Instance& instance, const LibraryTables& tables);

/// Order-independent hash of a set of instances: sums of mixed record hashes.
class LibraryHash {
 public:
  void add(std::uint64_t record_hash);
  std::string hex() const;  // 32 digits

 private:
  std::uint64_t low_ = 0, high_ = 0;
};

/// A shard in memory: at most kShardRows instances. Of the prompts, only those that its instances have are in it.
inline constexpr std::size_t kShardRows = 4096;
Table make_library_table(const std::vector<Instance>& instances, const LibraryTables& tables);
/// Throws Error(Data) when the table is not a library shard of this version, or a record hash does not fit.
std::vector<Instance> instances_of(const Table& table, LibraryTables* tables = nullptr);

/// One shard, whole or not at all. Throws Error(NoSpace | Io).
void write_library_shard(const Path& file, const std::vector<Instance>& instances, const LibraryTables& tables);
/// Reads and checks all rows. Throws Error(Data).
std::vector<Instance> read_library_shard(const Path& file, LibraryTables* tables = nullptr);

/// The library's shards (shard-*.h5) in the order of their names.
std::vector<Path> library_shards(const Path& folder);

/// Writes index.h5 over all shards of the folder: per-category lists of (shard, row) with what can be known without
/// reading a shard, and the library hash. A pure function of the shards, which it reads without their pictures.
/// Throws Error(Data) when a shard is damaged, two shards hold the same item, or their tables contradict each other.
void write_library_index(const Path& folder);

/// Read access. Thread-safe after construction; reading a picture is one read of just its bytes, without a lock held.
class Library {
 public:
  /// Reads of the index what does not grow with the number of instances; entries are checked when they are first asked
  /// for, a category at a time. Throws Error(Io | Data), as everything below does for a damaged index.
  explicit Library(const Path& folder);
  ~Library();

  std::size_t size() const;
  /// Order-independent over record hashes (sum of mixed row hashes), 32 hex digits: equal hash = equal instances,
  /// whatever the sharding.
  const std::string& hash() const;
  const LibraryTables& tables() const;

  /// Number of instances of each category that has some.
  const std::map<std::int32_t, std::int64_t>& per_category() const;
  /// Files of the shards, which Entry::shard counts in.
  const std::vector<Path>& shards() const;

  /// What can be known of an instance without reading its shard.
  struct Entry {
    std::uint64_t item_id = 0, record_hash = 0;
    std::int32_t category_id = 0, generator = 0, width = 0, height = 0;
    std::uint32_t shard = 0, row = 0, flags = 0;
    float similarity = 0;
  };
  Entry entry(std::size_t i) const;

  /// All entries, sorted by (category, item id); each is brought in from the index as it is asked for, by value.
  class Entries {
   public:
    class Iterator {
     public:
      using iterator_category = std::random_access_iterator_tag;
      using value_type = Entry;
      using difference_type = std::ptrdiff_t;
      using pointer = void;
      using reference = Entry;
      Iterator() = default;
      Iterator(const Library* library, std::size_t i) : library_(library), i_(i) {}
      Entry operator*() const { return library_->entry(i_); }
      Entry operator[](std::ptrdiff_t n) const { return *(*this + n); }
      Iterator& operator+=(std::ptrdiff_t n) {
        i_ = static_cast<std::size_t>(static_cast<std::ptrdiff_t>(i_) + n);
        return *this;
      }
      Iterator& operator-=(std::ptrdiff_t n) { return *this += -n; }
      Iterator& operator++() { return *this += 1; }
      Iterator& operator--() { return *this -= 1; }
      Iterator operator++(int) {
        const Iterator before = *this;
        ++i_;
        return before;
      }
      friend Iterator operator+(Iterator it, std::ptrdiff_t n) { return it += n; }
      friend Iterator operator-(Iterator it, std::ptrdiff_t n) { return it -= n; }
      friend std::ptrdiff_t operator-(const Iterator& a, const Iterator& b) {
        return static_cast<std::ptrdiff_t>(a.i_) - static_cast<std::ptrdiff_t>(b.i_);
      }
      auto operator<=>(const Iterator&) const = default;

     private:
      const Library* library_ = nullptr;
      std::size_t i_ = 0;
    };
    explicit Entries(const Library* library) : library_(library) {}
    std::size_t size() const { return library_->size(); }
    bool empty() const { return size() == 0; }
    Entry operator[](std::size_t i) const { return library_->entry(i); }
    Entry front() const { return library_->entry(0); }
    Entry back() const { return library_->entry(size() - 1); }
    Iterator begin() const { return {library_, 0}; }
    Iterator end() const { return {library_, size()}; }

   private:
    const Library* library_;
  };
  Entries entries() const { return Entries(this); }
  /// The entries of a category: [first, last). Empty when it has none.
  std::pair<std::size_t, std::size_t> range_of(std::int32_t category_id) const;

  /// PNG bytes of entry `i`, checked against their hash in the index. Throws Error(Io | Data) naming shard, row.
  std::string read_png(std::size_t i) const;
  /// The whole record of entry `i`, checked against its record hash. The first read from a shard reads its columns.
  Instance read(std::size_t i) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace divergen::store
