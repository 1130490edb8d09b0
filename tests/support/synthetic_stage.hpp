#pragma once
// A sharded stage whose items sleep: the real frame, queue and commits with times that are known, on more ranks than
// there are processors. For the queue's promises on uneven work, and for the simulator's on real runs.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "base/rng.hpp"
#include "comm/world.hpp"
#include "stages/common/sharded.hpp"
#include "stages/plan/plan.hpp"
#include "stages/scaling/simulate.hpp"

namespace divergen::test {

struct SyntheticResult {
  double makespan = 0;      // seconds from the ranks' common start to the end of the last one
  double item_seconds = 0;  // slept, of all ranks
  double busy = 0;          // share of the time until the last shard was begun in which the ranks were in items
  double overhead = 0;      // of claiming and committing: seconds for each second of items, until the last shard began
  double median_overhead = 0;  // of one claim and commit, over the mean shard's seconds
};

/// What a simulation of it starts from: times of the items, no launch, commits as measured in `folder`.
inline stages::SimulationInput synthetic_input(const comm::World& world, std::int64_t shards, std::int64_t shard_items,
                                               stages::ItemTimes times, double bytes_per_item) {
  stages::SimulationInput input;
  input.ranks = world.size();
  input.ranks_per_node = world.local_size();
  input.items = shards * shard_items;
  input.shard_items = shard_items;
  input.times = std::move(times);
  input.start.launch = input.start.launch_per_doubling = 0;
  input.start.metadata_per_node = input.start.metadata_per_rank = 0;
  input.file_system = {.metadata_rate = 1e12, .metadata_latency = 0, .bandwidth = 1e15, .node_bandwidth = 1e15};
  input.commit.bytes_per_item = bytes_per_item;
  return input;
}

/// Collective. Makes the shards of `input` in `folder`, which is the same on all ranks and holds no earlier run.
inline SyntheticResult run_synthetic(comm::World& world, const stages::SimulationInput& input, const Path& folder) {
  const auto all = static_cast<std::size_t>(input.items), each = static_cast<std::size_t>(input.shard_items);
  const std::vector<stages::Plan::Range> ranges = stages::cut_shards({all}, each, stages::taper_start(all, each));
  std::vector<std::pair<double, double>> spans;  // of this rank's shards: begun, made
  stages::ShardedStage stage;
  stage.name = "generate";
  stage.shards = ranges.size();
  stage.fingerprint = "synthetic";
  stage.items = [&](std::size_t shard) { return static_cast<std::int64_t>(ranges[shard].last - ranges[shard].first); };
  stage.make = [&](std::size_t shard) {
    const double begun = epoch_seconds();
    const auto items = static_cast<std::int64_t>(ranges[shard].last - ranges[shard].first);
    // One sleep: a busy machine adds some milliseconds to each.
    std::this_thread::sleep_for(std::chrono::duration<double>(stages::shard_seconds(input, shard, items)));
    spans.emplace_back(begun, epoch_seconds());
    store::Table table("divergen-synthetic", 1);
    std::vector<std::uint64_t> ids(static_cast<std::size_t>(items));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = derive_seed(shard, "item", {i});
    table.add("item_id", std::move(ids));
    table.set_heap(std::vector<std::string>(static_cast<std::size_t>(items),
                                            std::string(static_cast<std::size_t>(input.commit.bytes_per_item), 'x')));
    return table;
  };
  const config::RunConfig config;
  const stages::RunContext context{config, stages::RunDirectory(folder), world};
  world.barrier();
  const double start = epoch_seconds();
  stages::run_sharded(context, stage);

  SyntheticResult out;
  const auto microseconds = [](double seconds) { return static_cast<std::int64_t>(std::llround(1e6 * seconds)); };
  out.makespan = 1e-6 * static_cast<double>(world.max(microseconds(epoch_seconds() - start)));
  double last_begun = 0;
  for (const auto& span : spans) last_begun = std::max(last_begun, span.first - start);
  last_begun = 1e-6 * static_cast<double>(world.max(microseconds(last_begun)));
  // From the first shard of each rank on, until the last one of all was begun.
  double sums[4] = {0, 0, 0, 0};  // in items, in between, time in question, items in all
  std::vector<double> gaps;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const double begun = spans[i].first - start, made = spans[i].second - start;
    sums[0] += std::max(0.0, std::min(made, last_begun) - begun);
    sums[3] += made - begun;
    if (i + 1 == spans.size()) continue;
    gaps.push_back(spans[i + 1].first - start - made);
    sums[1] += gaps.back();
  }
  if (!spans.empty()) sums[2] = last_begun - (spans.front().first - start);
  world.sum(std::span<double>(sums));
  out.item_seconds = sums[3];
  out.busy = sums[2] > 0 ? sums[0] / sums[2] : 0;
  out.overhead = sums[0] > 0 ? sums[1] / sums[0] : 0;
  std::sort(gaps.begin(), gaps.end());
  const double median = gaps.empty() ? 0 : gaps[gaps.size() / 2];
  const double worst_median = 1e-6 * static_cast<double>(world.max(microseconds(median)));
  out.median_overhead = worst_median / (sums[3] / static_cast<double>(ranges.size()));
  return out;
}

/// Collective. Fills in what a simulation cannot know, measured in `folder`: the frame's own time around the shards
/// (listing, agreeing, the record), and a commit's.
inline void calibrate(comm::World& world, stages::SimulationInput& input, const Path& folder) {
  const double bytes = input.commit.bytes_per_item;
  stages::SimulationInput empty = input;
  empty.items = input.ranks * input.shard_items;
  empty.times = stages::ItemTimes::constant(0);
  double numbers[3] = {0, 0, 0};
  if (world.is_root()) {
    input.commit = stages::measure_commit(folder / "measure", input.shard_items, bytes);
    numbers[0] = input.commit.seconds;
    numbers[1] = input.commit.seconds_per_byte;
  }
  const double frame = run_synthetic(world, empty, folder / "empty").makespan;
  if (world.is_root()) numbers[2] = frame;
  world.sum(std::span<double>(numbers));
  input.commit.seconds = numbers[0];
  input.commit.seconds_per_byte = numbers[1];
  const double commit = numbers[0] + numbers[1] * bytes * static_cast<double>(input.shard_items);
  input.start.launch = std::max(0.0, numbers[2] - commit);
}

}  // namespace divergen::test
