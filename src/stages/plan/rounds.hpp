#pragma once
// A sharded stage over a plan that may have grown: results of the rounds before are kept.

#include "stages/common/sharded.hpp"
#include "stages/plan/plan.hpp"

namespace divergen::stages {

/// Shards, items and fingerprints of a stage that makes a shard for every shard of the plan. `fingerprint(round)`
/// covers all that the results of the rounds up to this one depend on. The plan must outlive the stage.
template <class Fingerprint>
void set_rounds(ShardedStage& stage, const Plan& plan, const Fingerprint& fingerprint) {
  stage.shards = plan.shards();
  stage.items = [&plan](std::size_t shard) { return plan.items_of(shard); };
  for (std::size_t round = 0; round < plan.rounds(); ++round) stage.parts.push_back(fingerprint(round));
  stage.fingerprint = stage.parts.back();
  stage.part_of = [&plan](std::size_t shard) { return plan.round_of(shard); };
}

}  // namespace divergen::stages
