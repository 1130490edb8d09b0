#pragma once
// Does a rank still make the bits that others like it make? Private to the frame of sharded stages.
//
// A defective device gives wrong pictures without any error (reference/reliability.md §5: 6 of 419 stops of a large
// training were silent corruption). A canary is a small fixed piece of the stage's own work. At the start the ranks
// compare theirs with each other, and with what the run directory remembers of earlier starts; later each compares with
// its own first one.

#include <map>
#include <optional>
#include <set>
#include <string>

#include "stages/common/sharded.hpp"

namespace divergen::stages {

class CanaryWatch {
 public:
  CanaryWatch(const RunContext& context, const ShardedStage& stage);

  /// Collective: every rank makes the canary of `shard`. Of ranks with the same key, the hash that the run directory
  /// remembers is right, else that of the majority, which is remembered ("canary.json"). Returns the ranks that are not
  /// to work, with the reason. Throws Error(Bug) on all ranks when two halves disagree: nobody can say who is right.
  std::map<int, std::string> start(std::size_t shard);

  /// After a shard was made. When it is time, and at the end (`last`), looks again at the model at hand; nothing when
  /// all is well, else what is wrong. `shard` is the one that was just made.
  std::optional<std::string> look(std::size_t shard, bool last);

  /// Shards that were made since the rank was last seen to be right.
  const std::set<std::size_t>& doubtful() const { return doubtful_; }

 private:
  bool is_on() const { return stage_.canary && seconds_ > 0; }
  Canary make(std::size_t shard) const;

  const RunContext& context_;
  const ShardedStage& stage_;
  double seconds_, next_ = 0;
  std::map<std::string, std::string> seen_;  // own hash of each key
  std::set<std::size_t> doubtful_;
};

}  // namespace divergen::stages
