#pragma once
// The stage "pool": the kept instances, cut out, as an instance library (store/library.hpp).
//
// A shard of the library holds what was kept of some consecutive shards of the plan, so many that it cannot exceed
// pool.shard_rows: which rows lie in which shard, and their bytes, depend on nothing but the plan and the settings.
// A run with run.fused has cut-outs instead of pictures and masks (cutouts.hpp): the same instances come of them.
//
// The record counts every item of the plan: items = figures["instances"] + all of `rejected`, which holds the filter's
// reasons and those of the cut-out ("empty", "thin", "unreadable").

#include <map>
#include <string>
#include <vector>

#include "stages/common/context.hpp"
#include "stages/plan/plan.hpp"
#include "store/library.hpp"

namespace divergen::stages {

/// The three tables of one shard of the plan, row for row the plan's.
struct FilteredShard {
  store::Table pictures;  // "divergen-pictures": item_id, category, generator, prompt, sample, seed, width, height; PNG
  store::Table masks;     // "divergen-masks": item_id, area; grey PNG
  store::Table verdicts;  // "divergen-verdicts": item_id, similarity, clip_score, kept, reason; document "reasons"
};

struct PoolRequest {
  const std::map<std::uint64_t, store::Instance>* have = nullptr;  // instances that need not be cut out, by item
  bool isolate = false;  // items whose cutting throws are counted under "failed"
};

/// Adds what is kept of rows `range` of the plan to `instances`, and the others to `rejected` by reason. Pure.
/// Throws Error(Data) when the tables are not those of the plan's rows.
void pool_rows(const Plan& plan, Plan::Range range, const FilteredShard& shard, int alpha_threshold,
               std::vector<store::Instance>& instances, std::map<std::string, std::int64_t>& rejected,
               const PoolRequest& request = {});

/// Which shards of the plan go into which shard of the library.
struct ShardGroup {
  std::size_t first = 0, last = 0;  // [first, last) shards of the plan
  std::int64_t items = 0;
};
std::vector<ShardGroup> group_shards(const Plan& plan, std::int64_t shard_rows);

/// Collective. Throws Error(Data) when a stage before it is not complete, or nothing at all was kept; Error(Stopped).
void run_pool(const RunContext& context);

}  // namespace divergen::stages
