// Ranks that fail, items that fail, bits that change, and shards of which some rows are damaged: what becomes of the
// stage, and that the results are those of an undisturbed one.

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <set>
#include <thread>

#include "base/error.hpp"
#include "base/fault.hpp"
#include "base/rng.hpp"
#include "mpi/shared_folder.hpp"
#include "stages/common/sharded.hpp"
#include "store/inspect.hpp"

namespace divergen::stages {
namespace {

using test::SharedFolder;
using test::world;

constexpr std::size_t kShards = 17, kRows = 5, kBatch = 2;

/// A stage in batches of two whose rows are numbers; some can be made to fail.
class Quarantine : public testing::Test {
 protected:
  Quarantine() {
    config.run.quarantine_after = 2;
    config.run.canary_minutes = 0;
  }
  ~Quarantine() override { fault::disarm(); }

  ShardedStage stage() {
    ShardedStage out;
    out.name = "generate";
    out.shards = kShards;
    out.fingerprint = "first";
    out.items = [](std::size_t) { return static_cast<std::int64_t>(kRows); };
    out.make_rows = [this](std::size_t shard, const ShardRequest& request) { return make(shard, request); };
    out.make = [this](std::size_t shard) { return make(shard, {}); };
    return out;
  }
  store::Table make(std::size_t shard, const ShardRequest& request) {
    ++calls[shard];
    if (on_make) on_make(shard);
    std::vector<std::uint64_t> ids, values(kRows);
    std::vector<std::string> heap(kRows);
    std::int64_t failed = 0;
    FixedBatch<std::size_t, std::uint64_t> batch(
        kBatch, request.isolate,
        [&](const std::vector<std::size_t>& rows) {
          std::vector<std::uint64_t> made;
          for (std::size_t place = 0; place < rows.size(); ++place) {
            if (is_poisoned && is_poisoned(shard, rows[place])) throw std::runtime_error("this item is poisoned");
            // The place in the batch decides bits, as it does with real kernels.
            made.push_back(derive_seed(shard, "value", {rows[place], place}) + (is_broken ? 1 : 0));
          }
          return made;
        },
        [&](std::size_t row, std::uint64_t&& value) {
          ++rows_made;
          values[row] = value;
          heap[row] = cat("entry ", value);
        },
        [&](std::size_t, const char*) { ++failed; });
    for (std::size_t row = 0; row < kRows; ++row) {
      ids.push_back(derive_seed(shard, "id", {row}));
      if (request.wants(row)) batch.add(row, row);
      else batch.skip(row);
    }
    batch.flush();
    store::Table table("divergen-test", 1);
    table.add("item_id", ids);
    table.add("value", values);
    table.set_heap(heap);
    set_rejected(table, {{kFailed, failed}});
    return table;
  }

  RunContext context() { return {config, RunDirectory(folder.path()), world()}; }
  RunDirectory dir() const { return RunDirectory(folder.path()); }
  void run(const ShardedStage& what) { run_sharded(context(), what); }
  StageRecord record() const { return read_record(dir(), "generate").value(); }
  bool is_last() const { return world().rank() == world().size() - 1; }

  /// Whether all rows but the poisoned ones are what an undisturbed stage makes.
  void expect_right(const std::set<std::pair<std::size_t, std::size_t>>& but = {}) const {
    for (std::size_t s = 0; s < kShards; ++s) {
      const store::Table table = store::read_table(dir().shard("generate", s));
      for (std::size_t row = 0; row < kRows; ++row) {
        const std::uint64_t right = derive_seed(s, "value", {row, row % kBatch});
        const bool is_there = !but.contains({s, row});
        EXPECT_EQ(table.get<std::uint64_t>("value")[row], is_there ? right : 0) << s << " " << row;
        EXPECT_EQ(table.heap(row), is_there ? cat("entry ", right) : "") << s << " " << row;
      }
    }
  }
  std::int64_t by_all(std::int64_t own) const {
    std::int64_t sum[] = {own};
    world().sum(std::span<std::int64_t>(sum));
    return sum[0];
  }
  /// The error that the stage ends with.
  std::optional<Error> error_of(const ShardedStage& what) {
    try {
      run(what);
    } catch (const Error& error) {
      return error;
    }
    return std::nullopt;
  }

  SharedFolder folder;
  config::RunConfig config;
  std::function<void(std::size_t)> on_make;
  std::function<bool(std::size_t, std::size_t)> is_poisoned;  // shard, row
  bool is_broken = false;                                     // makes wrong bits, without any error
  std::map<std::size_t, int> calls;
  std::int64_t rows_made = 0;
};

}  // namespace

TEST_F(Quarantine, ABrokenRankIsLeftOutAndTheOthersDoItsWork) {
  if (is_last()) fault::arm("shard.make", fault::Action::Break);
  // The others leave it time to claim what it will break.
  if (!is_last()) on_make = [](std::size_t) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); };
  if (world().size() == 1) {
    const auto error = error_of(stage());
    ASSERT_TRUE(error);
    EXPECT_EQ(exit_code(error->kind()), 70);
    EXPECT_NE(std::string(error->what()).find("a fault was asked for: shard.make"), std::string::npos) << error->what();
    EXPECT_FALSE(read_record(dir(), "generate"));
    fault::disarm();
    run(stage());
    expect_right();
    return;
  }

  run(stage());

  expect_right();
  const StageRecord made = record();
  EXPECT_TRUE(made.rejected.empty());
  ASSERT_EQ(made.ranks.size(), static_cast<std::size_t>(world().size()));
  for (const RankShare& share : made.ranks) {
    EXPECT_EQ(share.quarantined.empty(), share.rank != world().size() - 1) << share.rank;
    EXPECT_EQ(share.items > 0, share.rank != world().size() - 1) << share.rank;
  }
  EXPECT_NE(made.ranks.back().quarantined.find("2 shards failed one after another"), std::string::npos)
      << made.ranks.back().quarantined;
}

TEST_F(Quarantine, WhenNobodyIsLeftTheCauseIsTold) {
  on_make = [](std::size_t) { throw std::runtime_error("the driver has fallen off the bus"); };
  const auto error = error_of(stage());
  ASSERT_TRUE(error);
  EXPECT_EQ(exit_code(error->kind()), 70);
  EXPECT_NE(std::string(error->what()).find("fallen off the bus"), std::string::npos) << error->what();
  EXPECT_FALSE(read_record(dir(), "generate"));

  on_make = nullptr;
  run(stage());
  expect_right();
}

TEST_F(Quarantine, APoisonedItemIsRecordedAsFailedAndNothingElseIs) {
  is_poisoned = [](std::size_t shard, std::size_t row) { return shard == 6 && row == 3; };

  run(stage());

  expect_right({{6, 3}});
  EXPECT_EQ(record().rejected, (std::map<std::string, std::int64_t>{{kFailed, 1}}));
  EXPECT_EQ(record().items, static_cast<std::int64_t>(kShards * kRows));
  for (const RankShare& share : record().ranks) EXPECT_EQ(share.quarantined, "");
  // Once where it was claimed, once more on another rank (or again, alone), and there item by item.
  EXPECT_EQ(by_all(calls[6]), 3);
  const std::int64_t before = by_all(calls[6]);
  run(stage());
  EXPECT_EQ(by_all(calls[6]), before) << "not endless: it is recorded";
}

TEST_F(Quarantine, AFailureThatDoesNotComeAgainLeavesNoTrace) {
  config.run.quarantine_after = 3;
  std::set<std::size_t> once{2, 9};
  on_make = [&](std::size_t shard) {
    if (once.erase(shard) > 0) throw std::runtime_error("out of memory, for a moment");
  };
  // Each rank has its own list: a shard may fail on several, and must still be made.
  run(stage());
  expect_right();
  EXPECT_TRUE(record().rejected.empty());
}

TEST_F(Quarantine, ALostDiskOfOneNodeIsNotTheEnd) {
  on_make = [&](std::size_t) {
    if (is_last()) fail_errno("cannot read the weights", "/local/scratch", EIO);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  };
  const auto error = error_of(stage());
  if (world().size() == 1) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::Io);
    EXPECT_NE(std::string(error->what()).find("/local/scratch"), std::string::npos) << error->what();
    return;
  }
  EXPECT_FALSE(error) << error->what();
  expect_right();
  EXPECT_NE(record().ranks.back().quarantined, "");
}

TEST_F(Quarantine, ARankWithOtherBitsIsLeftOutFromTheBeginning) {
  config.run.canary_minutes = 60;
  ShardedStage with = stage();
  with.canary = [&](std::size_t) { return Canary{"model on device", is_last() ? "other bits" : "right bits"}; };
  is_broken = is_last();
  if (world().size() == 2) {
    const auto error = error_of(with);
    ASSERT_TRUE(error);
    EXPECT_EQ(exit_code(error->kind()), 70) << "of two, nobody can say who is right";
    EXPECT_NE(std::string(error->what()).find("different bits"), std::string::npos) << error->what();
    return;
  }
  if (world().size() == 1) is_broken = false;  // alone it is the measure, for later starts too

  run(with);

  expect_right();
  EXPECT_EQ(record().ranks.back().quarantined.empty(), world().size() == 1);
  world().barrier();
  // A later start with other bits than those that are remembered has nobody to work.
  ShardedStage later = stage();
  later.fingerprint = "second";
  later.canary = [](std::size_t) { return Canary{"model on device", "bits of another day"}; };
  const auto error = error_of(later);
  ASSERT_TRUE(error);
  EXPECT_NE(std::string(error->what()).find("bits of another day"), std::string::npos) << error->what();
}

TEST_F(Quarantine, WhatARankMadeSinceItsBitsChangedIsMadeByOthers) {
  config.run.canary_minutes = 60;
  ShardedStage with = stage();
  with.canary = [&](std::size_t) { return Canary{"model on device", is_broken ? "other bits" : "right bits"}; };
  int own = 0;
  on_make = [&](std::size_t) {
    if (is_last() && ++own == 2) is_broken = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  const auto error = error_of(with);
  if (world().size() == 1) {
    ASSERT_TRUE(error);
    EXPECT_NE(std::string(error->what()).find("its canary item is other bits, and was right bits"), std::string::npos)
        << error->what();
    for (std::size_t s = 0; s < kShards; ++s) EXPECT_FALSE(std::filesystem::exists(dir().shard("generate", s))) << s;
    return;
  }
  EXPECT_FALSE(error) << error->what();
  expect_right();
  if (by_all(is_broken) > 0) {
    EXPECT_NE(record().ranks.back().quarantined, "");
    EXPECT_EQ(record().ranks.back().items, 0);
  }
}

// ---- repair, row by row --------------------------------------------------------------------------------------------

TEST_F(Quarantine, RepairMakesExactlyTheRowsThatWereDamaged) {
  world().together([&] {
    if (!world().is_root()) return;
    store::Table plan("divergen-plan", 1);
    std::vector<std::uint64_t> ids;
    for (std::size_t s = 0; s < kShards; ++s)
      for (std::size_t row = 0; row < kRows; ++row) ids.push_back(derive_seed(s, "id", {row}));
    plan.add("item_id", ids);
    store::write_table(plan, dir().plan());
  });
  run(stage());
  std::vector<std::string> good;
  for (std::size_t s = 0; s < kShards; ++s) good.push_back(read_file(dir().shard("generate", s)));
  world().barrier();
  rows_made = 0;
  calls.clear();
  // A bit of row 3 of shard 4, and of rows 0 and 4 of shard 9.
  std::string kept;
  world().together([&] {
    if (!world().is_root()) return;
    for (const auto& [shard, row] : std::vector<std::pair<std::size_t, std::size_t>>{{4, 3}, {9, 0}, {9, 4}}) {
      std::string bytes = read_file(dir().shard("generate", shard));
      const std::string entry = cat("entry ", derive_seed(shard, "value", {row, row % kBatch}));
      const std::size_t at = bytes.find(entry);
      if (at == std::string::npos) throw std::runtime_error("the row's entry is not in its file");
      bytes[at + entry.size() - 1] ^= 1;
      write_file_atomic(dir().shard("generate", shard), bytes);
    }
    const auto report = store::verify_run(folder.path());
    EXPECT_EQ(std::count_if(report.problems.begin(), report.problems.end(), [](const auto& p) { return p.row; }), 3)
        << report.to_json().dump(1);
    for (const auto& one : store::repair_run(folder.path(), report))
      kept += cat(one.file.filename().string(), " ", one.kept, " of ", one.rows, "\n");
    EXPECT_EQ(kept, "shard-000004.h5 4 of 5\nshard-000009.h5 3 of 5\n");
    EXPECT_TRUE(store::verify_run(folder.path()).problems.size() > 0) << "the items that are missing";
  });

  run(stage());

  EXPECT_EQ(by_all(rows_made), 3) << "nothing else";
  EXPECT_EQ(by_all(calls[4] + calls[9]), 2);
  std::int64_t items = 0;
  for (const RankShare& share : record().ranks) items += share.items;
  EXPECT_EQ(items, 3) << "and so the record counts it";
  for (std::size_t s = 0; s < kShards; ++s) EXPECT_EQ(read_file(dir().shard("generate", s)), good[s]) << s;
  EXPECT_FALSE(std::filesystem::exists(store::kept_rows_file(dir().shard("generate", 4))));
  world().together([&] {
    if (world().is_root()) {
      EXPECT_TRUE(store::verify_run(folder.path()).problems.empty());
    }
  });
}

TEST_F(Quarantine, KeptRowsOfOtherSettingsAreNotUsed) {
  run(stage());
  rows_made = 0;
  world().together([&] {
    if (!world().is_root()) return;
    const Path shard = dir().shard("generate", 2);
    auto kept =
        store::KeptRows{store::read_table(shard), {0, 1, 2, 3, 4}, kRows, store::read_table_head(shard).table_hash};
    kept.rows.attributes["fingerprint"] = "another";
    store::write_kept_rows(kept, store::kept_rows_file(shard));
    std::filesystem::remove(shard);
  });

  run(stage());

  EXPECT_EQ(by_all(rows_made), static_cast<std::int64_t>(kRows));
  expect_right();
}

}  // namespace divergen::stages
