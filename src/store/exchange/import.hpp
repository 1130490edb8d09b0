#pragma once
// Libraries from elsewhere, and several made one.

#include <map>

#include "store/library.hpp"

namespace divergen::store {

struct ImportOptions {
  /// JSON list with id, name, frequency (or an LVIS file): names of the categories. Empty: "category_<id>".
  Path categories;
  int alpha_threshold = 128;
};
struct ImportSummary {
  std::int64_t instances = 0;
  std::map<std::string, std::int64_t> rejected;  // reason -> number
  std::string hash;
};
/// Makes the library `out` of a pool in X-Paste's and DiverGen's layout (reference/semantics.md §6): `from` is its JSON
/// or the folder that holds it. An export of this program brings its records along (instances.jsonl, tables.json), and
/// gives the same library hash again; of other pools nothing is known but class and picture: similarity is -1, the
/// generator "import". Pictures that cannot be read, are no RGBA PNG, are empty or stand there twice are left out and
/// counted. Throws Error(Data | Io | Usage).
ImportSummary import_pool(const Path& from, const Path& out, const ImportOptions& options);

struct MergeSummary {
  std::int64_t instances = 0, duplicates = 0, conflicts = 0;
  std::string hash;
};
/// Makes the library `out` of several: instances with one record hash once. Two different records of one item are an
/// Error(Data), or with `keep_first` the first stays. Categories of one id must have one name. Each shard holds
/// instances of one source, whose provenance it keeps.
MergeSummary merge_libraries(const std::vector<Path>& from, const Path& out, bool keep_first);

/// What two libraries have in common, by item.
struct LibraryDiff {
  std::vector<std::uint64_t> only_a, only_b;
  struct Changed {
    std::uint64_t item = 0;
    std::vector<std::string> fields;  // which of the record differ
  };
  std::vector<Changed> changed;
  std::int64_t equal = 0;
  bool is_equal() const { return only_a.empty() && only_b.empty() && changed.empty(); }
};
/// Reads the indices, and of items whose records differ the records, to name the fields.
LibraryDiff diff_libraries(const Library& a, const Library& b);

}  // namespace divergen::store
