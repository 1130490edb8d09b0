// The simulator against what can be worked out by hand, and the promises of scale that issue 9 asks for.

#include "stages/scaling/simulate.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "base/error.hpp"
#include "stages/plan/plan.hpp"
#include "support/fixtures.hpp"

// ---- metadata operations of this process: its own definitions of the calls come before the C library's -------------

namespace {

std::atomic<bool> counting{false};
std::atomic<int> operations{0};

void count() { operations += counting.load() ? 1 : 0; }

template <class F>
F next(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, ...)>("open");
  va_list arguments;
  va_start(arguments, flags);
  const auto mode = static_cast<mode_t>((flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, int) : 0);
  va_end(arguments);
  count();
  return real(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, ...)>("open64");
  va_list arguments;
  va_start(arguments, flags);
  const auto mode = static_cast<mode_t>((flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, int) : 0);
  va_end(arguments);
  count();
  return real(path, flags, mode);
}

int rename(const char* from, const char* to) noexcept {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  count();
  return real(from, to);
}

int fsync(int file) {
  static const auto real = next<int (*)(int)>("fsync");
  count();
  return real(file);
}

int statvfs(const char* path, struct statvfs* out) noexcept {
  static const auto real = next<int (*)(const char*, struct statvfs*)>("statvfs");
  count();
  return real(path, out);
}

}  // extern "C"

namespace divergen::stages {
namespace {

double sum_of(const PhaseShares& s) { return s.start_up + s.load + s.steady + s.commit + s.io_wait + s.queue + s.tail; }

/// Nothing but items, and commits of 0.1 s.
SimulationInput plain(std::int64_t ranks, std::int64_t items) {
  SimulationInput input;
  input.ranks = ranks;
  input.items = items;
  input.shard_items = 4;
  input.start = {};
  input.start.launch = input.start.launch_per_doubling = 0;
  input.start.metadata_per_node = input.start.metadata_per_rank = 0;
  input.commit = {.seconds = 0.1, .seconds_per_byte = 0, .metadata_operations = 0, .bytes_per_item = 0};
  return input;
}

TEST(Simulate, OneRankTakesTheSumOfAll) {
  SimulationInput input = plain(1, 18);
  input.times = ItemTimes::constant(2);
  input.start.launch = 3;
  input.start.load_seconds = 7;
  input.start.weight_bytes = 10e9;
  input.start.metadata_per_rank = 10;
  input.commit.metadata_operations = 5;
  input.commit.bytes_per_item = 1e6;
  const SimulationResult r = simulate(input);
  EXPECT_EQ(r.shards, 5);
  EXPECT_EQ(r.items, 18);
  EXPECT_EQ(r.nodes, 1);
  EXPECT_EQ(r.messages, 0);
  EXPECT_NEAR(r.item_seconds, 36, 1e-9);
  // Launch and 10 operations of 1 ms; 10 GB at 5 GB/s and loading; items and commits; 5 operations of 1 ms and 1 MB at
  // 5 GB/s of each shard.
  EXPECT_NEAR(r.makespan, 3 + 0.01 + 2 + 7 + 36 + 0.5 + 5 * 0.005 + 18 * 1e6 / 5e9, 1e-3);
  EXPECT_NEAR(sum_of(r.shares), 1, 1e-9);
  EXPECT_NEAR(r.shares.load * r.makespan, 9, 1e-9);
  EXPECT_NEAR(r.shares.start_up * r.makespan, 3.01, 1e-9);
  EXPECT_NEAR(r.shares.commit * r.makespan, 0.5, 1e-9);
  EXPECT_NEAR(r.shares.io_wait * r.makespan, 5 * 0.005 + 18 * 1e6 / 5e9, 1e-6);
  EXPECT_NEAR(r.efficiency, 36 / r.makespan, 1e-9);
}

TEST(Simulate, EqualShardsAreSharedEvenly) {
  // 64 shards of 4 items of 1 s and a commit of 0.1 s on 16 ranks of 2 nodes: four rounds.
  SimulationInput input = plain(16, 256);
  const SimulationResult r = simulate(input);
  EXPECT_EQ(r.nodes, 2);
  EXPECT_EQ(r.claims, 64);
  EXPECT_NEAR(r.makespan, 4 * 4.1, 0.01);
  EXPECT_GT(r.busy_until_last_claim, 0.999);
  EXPECT_NEAR(sum_of(r.shares), 1, 1e-9);
  input.shards_done = 32;  // resumed
  EXPECT_NEAR(simulate(input).makespan, 2 * 4.1, 0.01);
}

TEST(Simulate, UnevenShardsKeepAllRanksBusy) {
  SimulationInput input = plain(64, 4 * 64 * 14);
  input.times = ItemTimes::log_uniform(0.1, 5);  // 1:50
  double longest = 0, sum = 0;
  for (std::size_t shard = 0; shard < 64 * 14; ++shard) {
    const double seconds = shard_seconds(input, shard, 4) + 0.1;
    longest = std::max(longest, seconds);
    sum += seconds;
  }
  for (const std::int64_t largest : {1, 4}) {
    input.largest_claim = largest;
    const SimulationResult r = simulate(input);
    EXPECT_NEAR(r.item_seconds, sum - 64 * 14 * 0.1, 1e-6);
    EXPECT_GE(r.makespan, sum / 64);
    EXPECT_LE(r.makespan, sum / 64 + 2 * longest);  // list scheduling's bound, a shard lying in another node's block
    EXPECT_GE(r.busy_until_last_claim, 0.97) << "claims of " << largest;
    EXPECT_NEAR(sum_of(r.shares), 1, 1e-9);
  }
}

TEST(Simulate, TheSameInputGivesTheSameResult) {
  SimulationInput input = plain(100, 4000);
  input.times = ItemTimes::log_normal(1, 0.5);
  input.rank_spread = 0.05;
  const SimulationResult a = simulate(input), b = simulate(input);
  EXPECT_EQ(a.makespan, b.makespan);
  EXPECT_EQ(a.messages, b.messages);
  input.seed = 2;
  EXPECT_NE(simulate(input).makespan, a.makespan);
}

TEST(Simulate, ASlowMetadataServerShows) {
  SimulationInput input = plain(256, 256 * 16);
  input.commit.metadata_operations = 10;
  const SimulationResult fast = simulate(input);
  input.file_system.metadata_rate = 300;  // 1,024 shards x 10 operations: 34 s of it alone
  const SimulationResult slow = simulate(input);
  EXPECT_GT(slow.makespan, 34);
  EXPECT_LT(fast.makespan, 20);
  EXPECT_GT(slow.metadata_busy, 0.85);
  EXPECT_GT(slow.shares.io_wait, 5 * fast.shares.io_wait);
}

TEST(Simulate, TenThousandRanksKeepTheirEfficiency) {
  SimulationInput input;
  input.ranks = 10'000;
  input.ranks_per_node = 8;
  // The measured spread, at the 6 s an item that full-size models take (reference/reliability.md §8).
  input.times = ItemTimes::of_file(Path(DIVERGEN_SOURCE_DIR) / "data/mini/item_times.json").scaled_to(6);
  input.start.weight_bytes = 10e9;
  input.start.load_seconds = 20;
  const WeakScaling weak = simulate_weak(input, 1280);
  EXPECT_GE(weak.efficiency, 0.95);
  EXPECT_EQ(weak.all.shards, 275'000);  // the last eighth in quarters
  EXPECT_LT(weak.all.steward_busy, 0.05);
  EXPECT_GT(weak.all.busy_until_last_claim, 0.99);
}

TEST(Simulate, ImpossibleInputIsRefused) {
  SimulationInput input = plain(0, 10);
  EXPECT_THROW(simulate(input), Error);
  input = plain(4, 0);
  EXPECT_THROW(simulate(input), Error);
  input = plain(4, 10);
  input.items_of_generator = {3, 4};
  EXPECT_THROW(simulate(input), Error);
  input = plain(4, 10);
  input.commit.seconds = -1;
  EXPECT_THROW(simulate(input), Error);
  input = plain(4, 10);
  input.shards_done = 3;
  EXPECT_THROW(simulate(input), Error);
}

TEST(Simulate, ShardsAreCutAsThePlannerCuts) {
  PlanInput plan;
  plan.shard_items = 4;
  plan.generators = {{"a", 3, {"p"}}, {"b", 2, {"p"}}};
  for (int id = 1; id <= 3; ++id) {
    PlanCategory category;
    category.id = id;
    category.name = "c" + std::to_string(id);
    category.frequency = "r";
    category.prompts["p"] = {"one", "two " + category.name};
    plan.categories.push_back(category);
  }
  const Plan made = make_plan(plan);
  SimulationInput input = plain(1, static_cast<std::int64_t>(made.size()));
  input.items_of_generator = {18, 12};
  EXPECT_EQ(simulate(input).shards, static_cast<std::int64_t>(made.shards()));
}

TEST(Simulate, ACommitTakesTheOperationsThatTheModelCounts) {
  const test::TemporaryFolder folder;
  measure_commit(folder.path(), 64, 1000);  // HDF5 has opened what it opens once
  counting = true;
  const CommitModel measured = measure_commit(folder.path(), 64, 100'000);
  counting = false;
  EXPECT_GT(measured.seconds, 0);
  EXPECT_GT(measured.seconds_per_byte, 0);
  // Ten commits, and what measuring itself does.
  std::printf("%d metadata operations in ten commits\n", operations.load());
  EXPECT_NEAR(operations / 10.0, CommitModel().metadata_operations, 2);
}

TEST(ItemTimes, QuantilesAndMeans) {
  EXPECT_DOUBLE_EQ(ItemTimes::constant(3).quantile(0.7), 3);
  EXPECT_DOUBLE_EQ(ItemTimes::uniform(1, 3).quantile(0.25), 1.5);
  EXPECT_DOUBLE_EQ(ItemTimes::uniform(1, 3).mean(), 2);
  EXPECT_NEAR(ItemTimes::log_uniform(1, 50).quantile(0.5), std::sqrt(50.0), 1e-6);
  EXPECT_NEAR(ItemTimes::log_uniform(1, 50).mean(), 49 / std::log(50.0), 1e-3);
  EXPECT_NEAR(ItemTimes::log_normal(2, 0.5).quantile(0.5), 2, 1e-6);
  EXPECT_NEAR(ItemTimes::log_normal(2, 0.5).quantile(0.8413447), 2 * std::exp(0.5), 2e-3);
  EXPECT_NEAR(ItemTimes::log_normal(2, 0.5).mean(), 2 * std::exp(0.125), 2e-3);
  EXPECT_NEAR(ItemTimes::parse("log-uniform:0.02,1").mean(), ItemTimes::log_uniform(0.02, 1).mean(), 1e-12);
  EXPECT_NEAR(ItemTimes::uniform(1, 3).scaled_to(8).quantile(1), 12, 1e-9);
  for (const char* wrong : {"", "constant", "constant:", "constant:x", "constant:1,2", "uniform:1", "uniform:3,1",
                            "normal:1,2", "log-uniform:0,1", "constant:-1", "constant:nan"})
    EXPECT_THROW(ItemTimes::parse(wrong), Error) << wrong;
}

TEST(ItemTimes, RecordedOnesComeBackFromFilesAndRuns) {
  LogHistogram seconds;
  for (int i = 0; i < 1000; ++i) seconds.add(0.01 * (1 + i % 10));
  EXPECT_NEAR(seconds.mean(), 0.055, 1e-12);
  EXPECT_NEAR(seconds.quantile(0.45), 0.05, 0.05 * 0.05);
  const test::TemporaryFolder folder;
  write_item_times(seconds, "a test", folder.path() / "times.json");
  const ItemTimes back = ItemTimes::of_file(folder.path() / "times.json");
  EXPECT_NEAR(back.mean(), 0.055, 1e-9);
  EXPECT_NEAR(back.quantile(0.45), 0.05, 0.05 * 0.05);
  EXPECT_TRUE(back.per_shard());
  EXPECT_EQ(back.text(), "recorded: a test");

  const RunDirectory dir(folder.path() / "run");
  EXPECT_THROW(ItemTimes::of_run(dir, "generate"), Error);
  StageRecord record;
  record.stage = "generate";
  record.fingerprint = "f";
  write_record(dir, record);
  EXPECT_THROW(ItemTimes::of_run(dir, "generate"), Error) << "no times in it";
  record.item_seconds = seconds;
  write_record(dir, record);
  EXPECT_NEAR(ItemTimes::of_run(dir, "generate").mean(), 0.055, 1e-9);
  EXPECT_EQ(read_record(dir, "generate")->item_seconds.bins(), seconds.bins());
}

}  // namespace
}  // namespace divergen::stages
