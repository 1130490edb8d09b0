#include "stages/scaling/simulate.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "comm/claims.hpp"
#include "stages/plan/plan.hpp"
#include "stages/scaling/simulated_ranks.hpp"
#include "store/table.hpp"

namespace divergen::stages {
namespace {

constexpr std::int64_t kMostRanks = 10'000'000, kMostShards = 200'000'000;

/// Small and fast, for the many draws of items: the output function of Steele, Lea and Flood's SplitMix (OOPSLA 2014).
class ItemRng {
 public:
  explicit ItemRng(std::uint64_t seed) : state_(seed) {}
  double uniform() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }

 private:
  std::uint64_t state_;
};

[[noreturn]] void impossible(const char* object, const std::string& why) {
  fail(ErrorKind::Usage, {"this cannot be simulated", object, why, ""});
}

void check_input(const SimulationInput& input, std::int64_t planned) {
  if (input.ranks < 1 || input.ranks > kMostRanks) impossible("ranks", cat(input.ranks, " ranks"));
  if (input.ranks_per_node < 1) impossible("ranks_per_node", cat(input.ranks_per_node, " ranks a node"));
  if (input.items < 1 || planned != input.items)
    impossible("items", cat(input.items, " items, of the generators ", planned));
  if (input.shard_items < 1 || input.items / input.shard_items > kMostShards)
    impossible("shard_items", cat(input.items, " items in shards of ", input.shard_items));
  if (input.largest_claim < 1) impossible("largest_claim", cat(input.largest_claim, " shards of a claim"));
  const StartModel& start = input.start;
  const CommitModel& commit = input.commit;
  const QueueModel& queue = input.queue;
  const FileSystemModel& disk = input.file_system;
  for (const double rate : {disk.metadata_rate, disk.bandwidth, disk.node_bandwidth})
    if (!(rate > 0)) impossible("file_system", cat("a rate of ", rate));
  for (const double amount :
       {input.rank_spread, disk.metadata_latency, start.launch, start.launch_per_doubling, start.metadata_per_node,
        start.metadata_per_rank, start.weight_bytes, start.load_seconds, commit.seconds, commit.seconds_per_byte,
        commit.metadata_operations, commit.bytes_per_item, queue.draw, queue.message, queue.agent_pause,
        queue.answer_pause, queue.steward_pause, queue.steward_service})
    if (!(amount >= 0) || !std::isfinite(amount)) impossible("a time or an amount", cat("it is ", amount));
}

std::string basis_of(const SimulationInput& input) {
  const FileSystemModel& disk = input.file_system;
  const StartModel& start = input.start;
  std::string out =
      cat("items: ", input.times.text(), input.times.per_shard() ? " (one time for all items of a shard)" : "",
          "; launch ", human_seconds(start.launch), " and ", human_seconds(start.launch_per_doubling),
          " for each doubling of the nodes; ");
  if (start.weight_bytes > 0)
    out += cat("weights ", human_bytes(static_cast<std::uint64_t>(start.weight_bytes)), " a node; ");
  if (start.load_seconds > 0) out += cat("loading ", human_seconds(start.load_seconds), "; ");
  if (input.rank_spread > 0) out += cat("speeds of ranks differ by ", fixed(100 * input.rank_spread, 1), " %; ");
  out += cat("file system: ", with_thousands(static_cast<std::int64_t>(disk.metadata_rate)),
             " metadata operations and ", human_bytes(static_cast<std::uint64_t>(disk.bandwidth)),
             " a second, commits of ", fixed(input.commit.metadata_operations, 0), " operations");
  return out;
}

store::Table table_of(std::int64_t items, std::size_t bytes_per_item) {
  store::Table table("divergen-pictures", 1);
  std::vector<std::uint64_t> ids(static_cast<std::size_t>(items));
  std::vector<std::string> entries(ids.size());
  Rng rng(derive_seed(1, "bytes of a commit"));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = rng.next64();
    entries[i].resize(bytes_per_item);
    for (std::size_t b = 0; b + 8 <= bytes_per_item; b += 8) {
      const std::uint64_t word = rng.next64();
      std::copy_n(reinterpret_cast<const char*>(&word), 8, entries[i].data() + b);
    }
  }
  table.add("item_id", std::move(ids));
  table.set_heap(entries);
  return table;
}

double median_seconds_of_commit(const store::Table& table, const Path& folder) {
  constexpr int kTimes = 5;
  std::vector<double> seconds;
  for (int i = 0; i < kTimes; ++i) {
    const Path file = folder / cat("commit-", i, ".h5");
    const auto start = std::chrono::steady_clock::now();
    store::write_table(table, file);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    remove_quietly(file);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kTimes / 2];
}

}  // namespace

double shard_seconds(const SimulationInput& input, std::size_t shard, std::int64_t items) {
  ItemRng rng(derive_seed(input.seed, "times of items", {shard}));
  if (input.times.per_shard()) return static_cast<double>(items) * input.times.quantile(rng.uniform());
  double sum = 0;
  for (std::int64_t i = 0; i < items; ++i) sum += input.times.quantile(rng.uniform());
  return sum;
}

SimulationResult simulate(const SimulationInput& input) {
  std::vector<std::size_t> items_of_generator;
  std::int64_t planned = 0;
  for (const std::int64_t items : input.items_of_generator) {
    if (items < 0) impossible("items_of_generator", cat(items, " items"));
    items_of_generator.push_back(static_cast<std::size_t>(items));
    planned += items;
  }
  if (items_of_generator.empty()) {
    planned = input.items;
    items_of_generator.push_back(static_cast<std::size_t>(std::max<std::int64_t>(planned, 0)));
  }
  check_input(input, planned);
  const auto shard_items = static_cast<std::size_t>(input.shard_items);
  const std::vector<Plan::Range> ranges =
      cut_shards(items_of_generator, shard_items, taper_start(static_cast<std::size_t>(planned), shard_items));
  if (input.shards_done < 0 || input.shards_done >= static_cast<std::int64_t>(ranges.size()))
    impossible("shards_done", cat(input.shards_done, " of ", ranges.size(), " shards are done"));
  comm::ResumeMap map(ranges.size());
  for (std::int64_t i = 0; i < input.shards_done; ++i) map.set_done(static_cast<std::size_t>(i));
  const std::vector<std::size_t> open = map.open();
  SimulationResult result = SimulatedRanks(input, ranges, open).run();
  result.basis = basis_of(input);
  return result;
}

WeakScaling simulate_weak(SimulationInput input, std::int64_t items_per_rank) {
  constexpr std::uint64_t kSeeds = 200;
  input.items_of_generator.clear();
  input.shards_done = 0;
  const auto of = [&](std::int64_t ranks, std::uint64_t seed) {
    SimulationInput at = input;
    at.ranks = ranks;
    at.items = items_per_rank * ranks;
    at.seed = seed;
    return simulate(at);
  };
  WeakScaling out;
  for (std::uint64_t i = 0; i < kSeeds; ++i) {
    out.one = of(1, derive_seed(input.seed, "one rank", {i}));
    out.one_seconds += out.one.makespan / static_cast<double>(kSeeds);
  }
  out.all = of(input.ranks, input.seed);
  out.efficiency = out.one_seconds / out.all.makespan;
  return out;
}

CommitModel measure_commit(const Path& folder, std::int64_t items, double bytes_per_item) {
  DIVERGEN_CHECK(items >= 1 && bytes_per_item >= 0, items, " ", bytes_per_item);
  make_folder(folder);
  CommitModel out;
  out.bytes_per_item = bytes_per_item;
  out.seconds = median_seconds_of_commit(table_of(items, 1), folder);
  const double bytes = bytes_per_item * static_cast<double>(items);
  const double whole = median_seconds_of_commit(table_of(items, static_cast<std::size_t>(bytes_per_item)), folder);
  out.seconds_per_byte = bytes > 0 ? std::max(0.0, whole - out.seconds) / bytes : 0;
  return out;
}

}  // namespace divergen::stages
