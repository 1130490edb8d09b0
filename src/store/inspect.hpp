#pragma once
// What is in a library, and whether a run's tables are whole: the bodies of `divergen inspect`, `verify`, `repair`.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "image/image.hpp"
#include "store/library.hpp"

namespace divergen::store {

/// Facts of a library from its index alone: instances, hash, shards, bytes, per category and generator numbers, spread
/// of sizes and similarity, provenance. Throws Error(Io | Data).
nlohmann::json inspect_library(const Path& folder);

struct ContactSheetOptions {
  int columns = 12;  // instances of a category, spread evenly over its list
  int rows = 40;     // categories at most, spread evenly over all that have instances
  int cell = 96;     // px, side of a thumbnail; cut-outs are shrunk to it, never enlarged
};
/// RGB: a row for each category under its name and number, cut-outs on a checkered ground. A picture that cannot be
/// read is a red cell. Throws Error(Data) when the library is empty.
image::Image contact_sheet(const Library& library, const ContactSheetOptions& options = {});

/// Something wrong in a run; row and column where they can be told (TableProblem).
struct RunProblem {
  Path file;
  std::optional<std::size_t> row;
  std::string column, why;
};
struct RunReport {
  std::int64_t files = 0, rows = 0;  // that were checked
  std::int64_t leftovers = 0;        // *.part files of killed programs: harmless, swept by the next start
  std::vector<RunProblem> problems;
  nlohmann::json to_json() const;
};
/// Reads every table (*.h5) and stage record under `folder`, a run directory or a library, and checks all rows: hashes,
/// pictures of the library and their sizes, its index, each item of the plan exactly once in the stages that are
/// complete. Files are read by `threads` threads at once (0: one a core, at most 16); the report does not depend on
/// their number. Problems are collected, not thrown. Throws Error(Io) when there is no such folder, Error(Data) when it
/// holds no table.
RunReport verify_run(const Path& folder, int threads = 0);

/// A file that was removed, and what is kept of it.
struct Repaired {
  Path file;
  std::size_t kept = 0, rows = 0;  // rows that wait beside it to be used again, and all; 0: it is made again as a whole
};
/// Removes the files that verify_run() finds bad, and nothing else, so that the stages make exactly those again, with
/// the same bytes; plan.h5 stays (the plan is made from the configuration: `divergen plan`). Of a shard of a run
/// directory the rows that verify are put beside it (store/salvage.hpp): only the others are made again.
std::vector<Repaired> repair_run(const Path& folder, const RunReport& report);

}  // namespace divergen::store
