#pragma once
// What is to be made: every (generator, category, prompt, sample) as one item with its own seed, frozen before work
// starts.
//
// The plan is a pure function of its input. An item's id and seed come from the run's seed, the generator's name, the
// category, the prompt's text and the sample index; never from a rank, a position or another item, so that adding
// categories or prompts leaves the existing items as they are.

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/fs.hpp"

namespace divergen::stages {

struct PlanCategory {
  std::int32_t id = 0;                                      // as in the data set's JSON (LVIS: 1-based)
  std::string name;                                         // raw, underscored
  std::string frequency;                                    // "r", "c", "f"
  bool is_extra = false;                                    // outside the evaluated set
  std::map<std::string, std::vector<std::string>> prompts;  // of each source that has some for this category
  std::int64_t quota = 0;                                   // items of each generator; 0: prompts × samples_per_prompt
};

struct PlanGenerator {
  std::string name;
  std::int32_t samples_per_prompt = 1;
  std::vector<std::string> sources;  // whose prompts it paints, in this order; a text that stands in two counts once
  std::vector<std::int64_t> quotas;  // one a category, in place of PlanCategory::quota; empty: those
};

struct PlanInput {
  std::uint64_t seed = 0;
  std::vector<PlanCategory> categories;
  std::vector<PlanGenerator> generators;
  std::int32_t shard_items = 64;  // items of a shard: the unit of claiming, committing and losing
};

/// Columns of equal length, one entry an item. Ordered by generator, then category, prompt, sample.
struct Plan {
  std::vector<std::uint64_t> item_id;
  std::vector<std::uint64_t> seed;
  std::vector<std::int32_t> generator;  // index into `generators`
  std::vector<std::int32_t> category;   // index into `categories`
  std::vector<std::int32_t> prompt;     // index into `prompts`
  std::vector<std::int32_t> sample;

  std::vector<std::string> prompts;      // distinct texts in order of first use
  std::vector<PlanCategory> categories;  // without their prompts
  std::vector<std::string> generators;
  std::int32_t shard_items = 64;
  std::int64_t taper_from = kNoTaper;  // row from which shards are a quarter as large

  static constexpr std::int64_t kNoTaper = std::numeric_limits<std::int64_t>::max();
  std::size_t size() const { return item_id.size(); }
  std::size_t shards() const;
  std::int64_t items_of(std::size_t shard) const;  // rows of it
  /// A plan grows by rounds (retries.hpp): further samples of items that were rejected, behind what was planned before.
  /// Round 0 is the plan as it was made; a shard is of one round.
  std::size_t rounds() const { return round_starts.size(); }
  std::size_t round_of(std::size_t shard) const;
  std::vector<std::size_t> round_starts{0};  // first rows
  /// Rows [first, last) of a shard. A shard never spans two generators.
  struct Range {
    std::size_t first = 0, last = 0;
  };
  Range shard(std::size_t index) const;
  /// Hash of everything above: results made for another plan are refused.
  std::uint64_t hash() const { return hash(rounds() - 1); }
  /// Of the rounds up to this one.
  std::uint64_t hash(std::size_t last_round) const;
  /// To be called after rows were added.
  void cut_shards();

 private:
  std::vector<Range> ranges_;
};

/// From which row on a plan is cut into quarter shards. Large plans are for thousands of ranks, and the last shard of
/// each decides how long all wait for the end: with the last eighth in quarters, 10,000 simulated ranks lose 1 % to it
/// instead of 4 % (tests/bench/work_queue.py scale), for a third more files. Plans of fewer than 1,024 shards stay as they
/// are. A function of the plan alone, so that results do not depend on the ranks.
std::int64_t taper_start(std::size_t items, std::size_t shard_items);
/// How the rows of a plan with so many items of each generator, one generator after another, are cut into shards.
std::vector<Plan::Range> cut_shards(const std::vector<std::size_t>& items_of_generator, std::size_t shard_items,
                                    std::int64_t taper_from);

/// A category with a quota has exactly that many items of a generator, spread over its prompts as evenly as whole
/// numbers allow, the first prompts first; without one, samples_per_prompt of each. An item that two plans share is the
/// same in both. A category without prompts in a generator's sources has no items of that generator. Throws
/// Error(Config) when a generator has nothing to make, or two generators or categories share a name or id.
Plan make_plan(const PlanInput& input);

/// Id of an item, from which its seed comes.
std::uint64_t item_hash(std::uint64_t seed, std::string_view generator, std::int32_t category_id,
                        std::string_view prompt, std::int32_t sample);
/// Seed of the noise of an item.
std::uint64_t noise_seed(std::uint64_t item_id);

void write_plan(const Plan& plan, const Path& file);
/// As it was made, without what was added later. Throws Error(Data) when the file is damaged.
Plan read_plan(const Path& file);

}  // namespace divergen::stages
