// The frame of the sharded stages on several ranks: everything once, resumed, repaired, stopped, and the same bytes
// whatever the ranks.

#include "stages/common/sharded.hpp"

#include <algorithm>
#include <atomic>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "mpi/mpi_main.hpp"
#include "mpi/shared_folder.hpp"
#include "store/library.hpp"
#include "support/fixtures.hpp"
#include "support/pool_world.hpp"

namespace divergen::stages {
namespace {

using test::SharedFolder;
using test::world;

class Sharded : public testing::Test {
 protected:
  static constexpr std::size_t kShards = 23;

  /// A stage whose shards hold numbers that follow from their index.
  ShardedStage stage(const std::string& fingerprint = "first") {
    ShardedStage out;
    out.name = "generate";
    out.shards = kShards;
    out.fingerprint = fingerprint;
    out.items = [](std::size_t shard) { return static_cast<std::int64_t>(shard % 3 + 1); };
    out.make = [this, fingerprint](std::size_t shard) {
      ++made;
      Rng rng(derive_seed(shard, fingerprint));
      std::vector<std::uint64_t> values;
      for (std::size_t i = 0; i <= shard % 3; ++i) values.push_back(rng.next64());
      store::Table table("divergen-test", 1);
      table.add("value", values);
      set_rejected(table, {{"odd", static_cast<std::int64_t>(shard % 2)}, {"never", 0}});
      return table;
    };
    return out;
  }
  RunContext context() { return {config, RunDirectory(folder.path()), world()}; }
  void run(const ShardedStage& what) { run_sharded(context(), what); }

  std::int64_t made_by_all() {
    std::int64_t sum[] = {made};
    world().sum(std::span<std::int64_t>(sum));
    made = 0;
    return sum[0];
  }
  /// Table hashes of all shards; equal on all ranks.
  std::vector<std::uint64_t> hashes() const {
    std::vector<std::uint64_t> out;
    for (std::size_t i = 0; i < kShards; ++i)
      out.push_back(store::read_table(RunDirectory(folder.path()).shard("generate", i)).table_hash());
    return out;
  }
  static void on_root(const std::function<void()>& action) {
    world().barrier();
    if (world().is_root()) action();
    world().barrier();
  }

  SharedFolder folder;
  config::RunConfig config;
  std::int64_t made = 0;
};

}  // namespace

TEST_F(Sharded, MakesEveryShardOnceAndThenNothing) {
  run(stage());
  EXPECT_EQ(made_by_all(), static_cast<std::int64_t>(kShards));
  EXPECT_EQ(hashes().size(), kShards);

  const auto record = read_record(RunDirectory(folder.path()), "generate");
  ASSERT_TRUE(record.has_value());
  EXPECT_EQ(record->fingerprint, "first");
  EXPECT_EQ(record->items, 8 * 1 + 8 * 2 + 7 * 3);
  EXPECT_EQ(record->rejected, (std::map<std::string, std::int64_t>{{"odd", 11}}));
  EXPECT_EQ(record->ranks.size(), static_cast<std::size_t>(world().size()));
  std::int64_t items = 0;
  for (const RankShare& share : record->ranks) items += share.items;
  EXPECT_EQ(items, record->items);

  bool prepared = false;
  ShardedStage again = stage();
  again.prepare = [&] { prepared = true; };
  run(again);
  EXPECT_EQ(made_by_all(), 0);
  EXPECT_FALSE(prepared);
}

TEST_F(Sharded, MakesAgainExactlyWhatIsMissingDamagedOrOfOtherSettings) {
  run(stage());
  made_by_all();
  const auto good = hashes();
  const RunDirectory dir(folder.path());
  on_root([&] {
    std::filesystem::remove(dir.shard("generate", 3));
    std::string bytes = read_file(dir.shard("generate", 7));
    write_file_atomic(dir.shard("generate", 7), bytes.substr(0, bytes.size() / 2));
    bytes = read_file(dir.shard("generate", 9));
    const std::uint64_t value = store::read_table(dir.shard("generate", 9)).get<std::uint64_t>("value")[0];
    const std::size_t at = bytes.find(std::string(reinterpret_cast<const char*>(&value), sizeof value));
    ASSERT_NE(at, std::string::npos);
    bytes[at] ^= 1;
    write_file_atomic(dir.shard("generate", 9), bytes);
    store::Table other = store::read_table(dir.shard("generate", 11));
    other.attributes["fingerprint"] = "other";
    store::write_table(other, dir.shard("generate", 11));
    write_file_atomic(dir.shard("generate", 3).string() + ".1-0.part", "left over");
    std::filesystem::remove(dir.record("generate"));
  });

  run(stage());

  EXPECT_EQ(made_by_all(), 4);
  EXPECT_EQ(hashes(), good);
  EXPECT_FALSE(std::filesystem::exists(dir.shard("generate", 3).string() + ".1-0.part"));
  EXPECT_EQ(read_record(dir, "generate")->rejected.at("odd"), 11) << "also those of the earlier start";
}

TEST_F(Sharded, MakesAMissingShardThoughTheRecordStands) {
  run(stage());
  made_by_all();
  on_root([&] { std::filesystem::remove(RunDirectory(folder.path()).shard("generate", 22)); });
  run(stage());
  EXPECT_EQ(made_by_all(), 1);
}

TEST_F(Sharded, MakesAllAgainUnderAnotherFingerprint) {
  run(stage());
  made_by_all();
  const auto first = hashes();
  run(stage("second"));
  EXPECT_EQ(made_by_all(), static_cast<std::int64_t>(kShards));
  EXPECT_NE(hashes(), first);
  EXPECT_EQ(read_record(RunDirectory(folder.path()), "generate")->fingerprint, "second");
}

TEST_F(Sharded, StopsOnAllRanksWhenOneIsAskedAndGoesOn) {
  const int stopping = world().size() - 1;
  int calls = 0;
  RunContext asked = context();
  asked.stop_requested = [&] { return world().rank() == stopping && ++calls > 2; };

  try {
    run_sharded(asked, stage());
    // With several ranks the stopping one may come too late to claim anything; alone it cannot.
    EXPECT_GT(world().size(), 1);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Stopped);
    EXPECT_FALSE(read_record(RunDirectory(folder.path()), "generate").has_value());
  }
  const std::int64_t before = made_by_all();
  if (world().size() == 1) {
    EXPECT_EQ(before, 2);
  }

  run(stage());
  EXPECT_EQ(before + made_by_all(), static_cast<std::int64_t>(kShards)) << "nothing lost, nothing twice";
}

TEST_F(Sharded, KeepsTheShardsOfTheOthersWhenOneRankFails) {
  ShardedStage bad = stage();
  const auto make = bad.make;
  bad.make = [&](std::size_t shard) {
    if (shard == 20) fail(ErrorKind::Data, {"a broken item", "shard 20", "on purpose", "nothing"});
    return make(shard);
  };

  ErrorKind kind{};
  try {
    run(bad);
    ADD_FAILURE() << "no error on rank " << world().rank();
  } catch (const Error& error) {
    kind = error.kind();
    EXPECT_NE(std::string(error.what()).find("broken item"), std::string::npos) << error.what();
  }
  EXPECT_EQ(kind, ErrorKind::Data);
  const std::int64_t before = made_by_all();

  run(stage());
  EXPECT_EQ(before + made_by_all(), static_cast<std::int64_t>(kShards));
}

TEST_F(Sharded, CompletesWithWhatTheStageAdds) {
  ShardedStage with = stage();
  with.products = {folder.path() / "index"};
  with.complete = [&](StageRecord& record) {
    if (!world().is_root()) return;
    record.figures["answer"] = 42;
    write_file_atomic(folder.path() / "index", "here");
  };
  run(with);
  made_by_all();
  EXPECT_EQ(read_record(RunDirectory(folder.path()), "generate")->figures.at("answer"), 42);

  on_root([&] { std::filesystem::remove(folder.path() / "index"); });
  run(with);
  EXPECT_EQ(made_by_all(), 0);
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "index")) << "a missing product is made again";
}

// ---- the pool stage, from the shards of the stages before it -------------------------------------------------------

class PoolStage : public testing::Test {
 protected:
  void write(bool keep_nothing = false) {
    world().together([&] {
      if (world().is_root()) made.write(RunDirectory(folder.path()), keep_nothing);
    });
  }
  RunContext context() { return {config, RunDirectory(folder.path()), world()}; }

  const test::PoolWorld made;
  SharedFolder folder;
  config::RunConfig config;
};

TEST_F(PoolStage, MakesALibraryThatAddsUpToThePlan) {
  write();
  config.pool.shard_rows = 8;
  run_pool(context());

  const store::Library library(RunDirectory(folder.path()).library());
  const auto record = read_record(RunDirectory(folder.path()), "pool");
  ASSERT_TRUE(record.has_value());
  EXPECT_EQ(record->items, static_cast<std::int64_t>(made.plan.size()));
  EXPECT_EQ(record->rejected, made.expected_rejected());
  std::int64_t rejected = 0;
  for (const auto& [reason, count] : record->rejected) rejected += count;
  EXPECT_EQ(record->figures.at("instances") + static_cast<double>(rejected), static_cast<double>(record->items));
  EXPECT_EQ(library.size(), static_cast<std::size_t>(record->items - rejected));
  EXPECT_GT(library.shards().size(), 2u);
  EXPECT_EQ(library.tables().generators.at(1).weights_hash, "weights of generator 1");
  for (std::size_t i = 0; i < library.size(); ++i) {
    const store::Instance one = library.read(i);
    EXPECT_EQ(test::PoolWorld::fate_of(made.row_of(one.item_id)), "kept");
  }
}

TEST_F(PoolStage, HasTheSameHashForEveryShardSizeAndRankCount) {
  write();
  std::vector<std::string> hashes;
  for (const std::int64_t rows : {4, 12, 4096}) {
    config.pool.shard_rows = rows;
    run_pool(context());
    hashes.push_back(store::Library(RunDirectory(folder.path()).library()).hash());
  }
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_EQ(hashes[0], hashes[2]);
  // Of this plan, these pictures and this PNG encoder's version; the same for 1, 2 and 3 ranks of one machine.
  std::vector<store::Instance> all;
  std::map<std::string, std::int64_t> rejected;
  for (std::size_t s = 0; s < made.plan.shards(); ++s)
    pool_rows(made.plan, made.plan.shard(s), made.shard(s), 128, all, rejected);
  store::LibraryTables tables = store::Library(RunDirectory(folder.path()).library()).tables();
  store::LibraryHash expected;
  for (const store::Instance& one : all) expected.add(store::record_hash(one, tables));
  EXPECT_EQ(hashes[0], expected.hex());
}

TEST_F(PoolStage, SaysWhatToDoWhenNothingWasKept) {
  write(true);
  try {
    run_pool(context());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Data);
    EXPECT_NE(std::string(error.what()).find("unlike_real_crops 30"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(read_record(RunDirectory(folder.path()), "pool").has_value());
}

TEST_F(PoolStage, NamesTheStageThatIsMissing) {
  world().together([&] {
    if (!world().is_root()) return;
    make_folder(folder.path());
    write_plan(made.plan, RunDirectory(folder.path()).plan());
  });
  try {
    run_pool(context());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("divergen filter"), std::string::npos) << error.what();
  }
}

}  // namespace divergen::stages

DIVERGEN_MPI_MAIN()
