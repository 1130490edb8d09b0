#pragma once
// Making the open shards of a stage on all ranks: claiming, failures, quarantine. Part of sharded.cpp's frame.

#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "stages/common/rank_phases.hpp"
#include "stages/common/sharded.hpp"

namespace divergen::stages {

/// What a rank knows of the shards that it checked or made.
struct ShardTally {
  std::map<std::string, std::int64_t> rejected;
  std::int64_t bytes = 0;

  /// Adds the file's size and its numbers of rejected items.
  void count(const Path& file, const std::map<std::string, std::string>& attributes);
};

/// What one rank did, and how it ended.
struct ShardWork {
  RankShare share;
  LogHistogram item_seconds;  // of an item, one entry a shard
  RankPhases phases;
  std::vector<std::pair<double, std::int64_t>> ends;  // when (seconds since the epoch) so many items were committed
  /// Of each shard that it made. Those that turn out to be doubtful (canary) are taken away again.
  std::map<std::size_t, ShardTally> made;
  bool stopped = false;
  std::exception_ptr error;

  ShardTally sum() const;
};

/// Fingerprint of a shard of the stage.
std::string shard_fingerprint(const ShardedStage& stage, std::size_t shard);

/// Claims and makes `open` (the same on all ranks) until none is left. Collective; what went wrong is told by the
/// result. Throws Error on all ranks when shards are left that no rank can make.
ShardWork make_shards(const RunContext& context, const ShardedStage& stage, const std::vector<std::size_t>& open);

}  // namespace divergen::stages
