#pragma once
// Generated pictures with their masks, chosen from the shards of generate, annotate and filter.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "stages/common/run_directory.hpp"

namespace divergen::stages::report {

struct Tile {
  std::string uri;                // the picture above its cut-out, JPEG
  std::string prompt, generator;  // "" where the plan is not there
  float similarity = 0, clip_score = 0, area_share = 0;
  std::string reason;  // "" for a kept one
};

struct SheetRow {
  std::int64_t category_id = 0;
  std::int64_t seen = 0, kept = 0;  // in the shards that were read
  std::vector<Tile> kept_tiles, rejected_tiles;
};

struct ContactSheets {
  std::vector<SheetRow> rows;  // by category id
  bool judged = false;         // the filter's verdicts are known; else all count as kept
  std::size_t shards_read = 0, shards = 0;
  std::map<std::string, std::int64_t> reasons;              // "kept" included
  std::vector<float> kept_similarity, rejected_similarity;  // of those with a similarity
  std::vector<std::string> problems;                        // damaged shards
};

struct SheetLimits {
  std::size_t shards = 96;  // at most so many are read, evenly spread over the run
  std::size_t kept = 6, rejected = 3;
};

/// Which tiles are shown depends on the item ids alone (the smallest hashes), so that a report of the same run shows
/// the same ones. Reads one shard at a time; damaged ones become problems.
ContactSheets read_sheets(const RunDirectory& dir, const SheetLimits& limits = {});

}  // namespace divergen::stages::report
