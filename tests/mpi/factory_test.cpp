// The factory beyond its plain stages: fused runs, further samples of rejected items, items that fail, repair row by
// row, and counts that add up. On tiny models with the official layouts; everything is compared with one staged run.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <tuple>

#include "models/diffusion/stable_diffusion.hpp"
#include "stages/common/sharded.hpp"
#include "stages/filter/verdict.hpp"
#include "stages/report/balance.hpp"
#include "store/inspect.hpp"
#include "store/library.hpp"
#include "support/tiny_study.hpp"

namespace divergen::stages {
namespace {

// 3 categories x 2 samples of the first generator, 3 + 2 prompts of the second: shards of 3.
constexpr std::int64_t kItems = 11;
constexpr std::size_t kShards = 4;

/// A generator that fails on an item with one seed, as a model may on an odd prompt.
class Poisoned : public models::TextToImage {
 public:
  Poisoned(std::unique_ptr<models::TextToImage> model, std::uint64_t seed) : model_(std::move(model)), seed_(seed) {}
  std::vector<image::Image> generate(std::span<const models::GenerationItem> items) override {
    for (const auto& item : items)
      if (item.seed == seed_) throw std::runtime_error("index out of range in self");
    return model_->generate(items);
  }
  const std::string& weights_hash() const override { return model_->weights_hash(); }

 private:
  std::unique_ptr<models::TextToImage> model_;
  std::uint64_t seed_;
};

void poison_generators(std::uint64_t seed) {
  models::register_generator("stable_diffusion", [seed](const models::GeneratorSettings& settings, at::Device device) {
    return std::make_unique<Poisoned>(std::make_unique<models::StableDiffusion>(settings, device), seed);
  });
}

class mpi_factory : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    study_ = std::make_unique<test::TinyStudy>(DIVERGEN_MPIEXEC);
    ASSERT_EQ(run(1, "one", "pgafl"), 0) << output();
  }
  static void TearDownTestSuite() { study_.reset(); }

  /// Exit code. `changes`: "key=value", between blanks.
  static int run(int ranks, const std::string& name, const std::string& stages, const std::string& changes = "") {
    std::vector<std::string> list;
    for (const std::string& change : split(changes, ' '))
      if (!change.empty()) list.push_back(change);
    return study_->run(ranks, name, stages, list);
  }
  static const std::string& output() { return study_->output(); }
  static RunDirectory directory(const std::string& name) { return study_->directory(name); }
  static std::map<std::string, std::uint64_t> hashes(const std::string& name) { return study_->hashes(name); }
  /// Record hash of each instance of a run's library, by item.
  static std::map<std::uint64_t, std::uint64_t> records(const std::string& name) {
    std::map<std::uint64_t, std::uint64_t> out;
    const store::Library library(directory(name).library());
    for (const auto& entry : library.entries()) out[entry.item_id] = entry.record_hash;
    return out;
  }
  /// A bound of similarity that about half of the items of the run "one" are below.
  static std::string middle_similarity() {
    std::vector<float> all;
    for (std::size_t s = 0; s < kShards; ++s) {
      const store::Table verdicts = read_shard(directory("one"), "filter", s, kVerdictsFormat);
      for (const float similarity : verdicts.get<float>("similarity"))
        if (similarity > kNoSimilarity) all.push_back(similarity);
    }
    std::sort(all.begin(), all.end());
    return cat((all[all.size() / 2] + all[all.size() / 2 - 1]) / 2);
  }
  /// The counts of all stages, category by category, fit together and with the records.
  static report::Balance expect_balance(const std::string& name) {
    const auto balances = report::balance_of(directory(name));
    const report::Balance total = report::total_of(balances);
    const Plan plan = read_plan(directory(name));
    for (const auto& [id, one] : balances) EXPECT_TRUE(one.adds_up()) << name << ", category " << id;
    EXPECT_TRUE(total.adds_up()) << name;
    EXPECT_EQ(total.planned, kItems);
    EXPECT_EQ(total.planned + total.retries, static_cast<std::int64_t>(plan.size()));
    const auto pool = read_record(directory(name), "pool"), filter = read_record(directory(name), "filter");
    EXPECT_EQ(total.kept, static_cast<std::int64_t>(pool->figures.at("instances")));
    std::int64_t rejected = 0, by_pool = total.failed;
    for (const auto& [reason, count] : pool->rejected) rejected += count;
    for (const auto& [reason, count] : total.rejected) by_pool += count;
    EXPECT_EQ(pool->items, total.kept + rejected);
    EXPECT_EQ(rejected, by_pool);
    EXPECT_EQ(filter->items, pool->items);
    for (const auto& [reason, count] : filter->rejected) {
      auto found = total.rejected.find(reason);
      const std::int64_t told = found == total.rejected.end() ? 0 : found->second;
      EXPECT_EQ(told, count - (reason == "unreadable" ? total.failed : 0)) << name << ": " << reason;
    }
    return total;
  }
  /// Flips a bit in what row 1 of a shard, or its only row, holds.
  static void damage_a_row(const Path& shard) {
    const store::Table table = store::read_table(shard);
    const std::size_t row = table.rows() > 1 ? 1 : 0;
    std::string bytes = read_file(shard), part;
    if (table.has_heap() && !table.heap(row).empty()) {
      part = table.heap(row).substr(0, 200);
    } else {
      const std::uint64_t id = table.get<std::uint64_t>("item_id")[row];
      part.assign(reinterpret_cast<const char*>(&id), sizeof id);
    }
    const std::size_t at = bytes.find(part);
    ASSERT_NE(at, std::string::npos) << shard;
    bytes[at + part.size() / 2] ^= 4;
    std::filesystem::remove(shard);
    write_file_atomic(shard, bytes);
  }

  static std::unique_ptr<test::TinyStudy> study_;
};
std::unique_ptr<test::TinyStudy> mpi_factory::study_;

}  // namespace

TEST_F(mpi_factory, FusedMakesTheRecordsOfTheStagedRunOnAnyNumberOfRanks) {
  const auto staged = records("one");
  ASSERT_GT(staged.size(), 3u) << "the models of the test must leave something to compare";
  const auto pool = read_record(directory("one"), "pool"), filter = read_record(directory("one"), "filter");
  std::map<std::string, std::uint64_t> first;
  for (const int ranks : {1, 2, 3, 4}) {
    const std::string name = cat("fused", ranks);
    ASSERT_EQ(run(ranks, name, "pF", cat("fused=1 shuffle=", ranks)), 0) << output();
    EXPECT_EQ(records(name), staged) << ranks << " ranks";
    EXPECT_EQ(store::Library(directory(name).library()).hash(), store::Library(directory("one").library()).hash());
    EXPECT_EQ(read_record(directory(name), "pool")->rejected, pool->rejected);
    EXPECT_EQ(read_record(directory(name), "filter")->rejected, filter->rejected);
    EXPECT_EQ(read_record(directory(name), "fused")->items, kItems);
    for (const char* raw : {"generate", "annotate", "filter.scores"})
      EXPECT_FALSE(std::filesystem::exists(study_->path(name) / raw)) << raw << " touches the disk";
    if (first.empty()) first = hashes(name);
    EXPECT_EQ(hashes(name), first) << "every table, on " << ranks << " ranks";
    ASSERT_EQ(run(ranks, name, "pF", "fused=1"), 0) << output();
    EXPECT_EQ(hashes(name), first) << "and nothing is made twice";
  }
}

TEST_F(mpi_factory, AFusedRunGoesOnWhereItWasKilled) {
  ASSERT_EQ(run(2, "fused_killed", "pF", "fused=1"), 0) << output();
  const auto expected = hashes("fused_killed");
  std::filesystem::remove(directory("fused_killed").shard("fused", 1));
  std::filesystem::remove(directory("fused_killed").shard("filter", 2));
  std::filesystem::remove(directory("fused_killed").record("fused"));
  std::filesystem::remove(directory("fused_killed").record("pool"));
  ::setenv("DIVERGEN_FAULT", "shard.make:kill", 1);
  EXPECT_NE(run(2, "fused_killed", "pF", "fused=1"), 0);
  ::unsetenv("DIVERGEN_FAULT");
  ASSERT_EQ(run(2, "fused_killed", "pF", "fused=1"), 0) << output();
  EXPECT_EQ(hashes("fused_killed"), expected);
}

TEST_F(mpi_factory, OtherBoundsOfAFusedRunNeedNoModel) {
  ASSERT_EQ(run(1, "fused_bounds", "pF", "fused=1"), 0) << output();
  const Path cutouts = directory("fused_bounds").shard("fused", 0);
  const auto made = std::filesystem::last_write_time(cutouts);
  const std::string change = cat("fused=1 similarity=", middle_similarity());
  ASSERT_EQ(run(2, "fused_bounds", "pF", change), 0) << output();
  EXPECT_EQ(std::filesystem::last_write_time(cutouts), made);
  EXPECT_GT(read_record(directory("fused_bounds"), "filter")->rejected.at("unlike_real_crops"), 0);
}

// ---- retries -------------------------------------------------------------------------------------------------------

TEST_F(mpi_factory, RejectedItemsGetFurtherSamplesUntilTheBound) {
  const std::string strict = cat("similarity=", middle_similarity(), " retry=2");
  ASSERT_EQ(run(1, "retry", "pgafl", strict), 0) << output();
  const auto before = records("retry");
  ASSERT_LT(before.size(), records("one").size()) << "nothing was rejected: nothing is tested";
  const auto first_shard = std::filesystem::last_write_time(directory("retry").shard("generate", 0));

  ASSERT_EQ(run(1, "retry", "R", strict), 0) << output();

  EXPECT_EQ(std::filesystem::last_write_time(directory("retry").shard("generate", 0)), first_shard)
      << "what the plan had is not made again";
  const Plan plan = read_plan(directory("retry"));
  const store::Library library(directory("retry").library());
  std::set<std::uint64_t> there;
  for (const auto& entry : library.entries()) there.insert(entry.item_id);
  for (const auto& [item, record] : before) EXPECT_TRUE(there.contains(item)) << "what was kept stays";
  // Every sample of the plan has an instance in one of its attempts, or all attempts were made.
  std::map<std::tuple<int, int, int, int>, std::pair<int, int>> chains;  // -> attempts, instances
  int most = 0;
  for (std::size_t row = 0; row < plan.size(); ++row) {
    const int attempt = store::attempt_of(plan.sample[row]);
    most = std::max(most, attempt);
    auto& chain = chains[{plan.generator[row], plan.category[row], plan.prompt[row],
                          plan.sample[row] % store::kSamplesPerAttempt}];
    EXPECT_EQ(chain.first, attempt) << "attempts come in their order";
    EXPECT_EQ(chain.second, 0) << "no further sample of an item that has an instance";
    ++chain.first;
    chain.second += there.contains(plan.item_id[row]);
    EXPECT_EQ(plan.seed[row], noise_seed(plan.item_id[row]));
  }
  EXPECT_EQ(chains.size(), static_cast<std::size_t>(kItems));
  for (const auto& [key, chain] : chains) EXPECT_TRUE(chain.second == 1 || chain.first == 3) << chain.first;
  EXPECT_GT(most, 0);
  EXPECT_LE(most, 2);
  const auto record = read_record(directory("retry"), "retry");
  EXPECT_EQ(record->items, static_cast<std::int64_t>(plan.size()) - kItems);
  EXPECT_EQ(read_record(directory("retry"), "generate")->items, static_cast<std::int64_t>(plan.size()));

  // The same on several ranks, and fused, and when nothing is left to do.
  const auto expected = hashes("retry");
  for (const int ranks : {2, 3}) {
    ASSERT_EQ(run(ranks, cat("retry", ranks), "pgaflR", cat(strict, " shuffle=", ranks)), 0) << output();
    EXPECT_EQ(hashes(cat("retry", ranks)), expected) << ranks << " ranks";
  }
  ASSERT_EQ(run(2, "retry_fused", "pFR", strict + " fused=1"), 0) << output();
  EXPECT_EQ(records("retry_fused"), records("retry"));
  ASSERT_EQ(run(1, "retry", "pgaflR", strict), 0) << output();
  EXPECT_EQ(hashes("retry"), expected);

  for (const std::string name : {"retry", "retry_fused"}) expect_balance(name);
}

TEST_F(mpi_factory, CountsAddUpFromPlanToPool) {
  const std::string strict = cat("similarity=", middle_similarity());
  ASSERT_EQ(run(2, "counts", "pgafl", strict), 0) << output();
  ASSERT_EQ(run(2, "counts_fused", "pF", strict + " fused=1"), 0) << output();
  for (const std::string name : {"one", "counts", "counts_fused"}) expect_balance(name);
}

TEST_F(mpi_factory, APoisonedItemFailsAloneAndIsCounted) {
  // The third item of the plan's second shard makes the model throw, wherever it is made.
  const Plan plan = read_plan(directory("one"));
  const std::size_t row = plan.shard(1).first + 1;
  for (const std::string stages : {"pgafl", "pF"}) {
    const std::string name = "poison_" + stages;
    ::setenv("POISON", std::to_string(plan.seed[row]).c_str(), 1);
    EXPECT_EQ(run(2, name, stages, stages == "pF" ? "fused=1" : ""), 0) << output();
    ::unsetenv("POISON");
    EXPECT_EQ(read_record(directory(name), stages == "pF" ? "fused" : "generate")->rejected.at("failed"), 1);
    auto expected = records("one");
    expected.erase(plan.item_id[row]);
    EXPECT_EQ(records(name), expected) << "all others are what they were";
    const auto balance = expect_balance(name);
    EXPECT_EQ(balance.failed, 1);
    // A retry makes up for it.
    EXPECT_EQ(run(1, name, "R", cat("retry=1", stages == "pF" ? " fused=1" : "")), 0) << output();
    EXPECT_EQ(read_plan(directory(name)).rounds(), 2u);
    expect_balance(name);
  }
}

// ---- repair --------------------------------------------------------------------------------------------------------

TEST_F(mpi_factory, RepairMakesTheDamagedRowsAgainWithTheirBits) {
  for (const bool fused : {false, true}) {
    const std::string name = fused ? "repair_fused" : "repair";
    if (fused) {
      ASSERT_EQ(run(1, name, "pF", "fused=1"), 0) << output();
    } else {
      std::filesystem::copy(study_->path("one"), study_->path(name), std::filesystem::copy_options::recursive);
    }
    const auto expected = hashes(name);
    const RunDirectory dir = directory(name);
    std::vector<Path> shards{dir.shard("pool", 0), dir.shard("filter", 3)};
    if (fused) shards.push_back(dir.shard("fused", 1));
    else
      shards.insert(shards.end(), {dir.shard("generate", 1), dir.shard("annotate", 2), dir.shard("filter.scores", 1)});
    for (const Path& shard : shards) damage_a_row(shard);
    const auto report = store::verify_run(study_->path(name));
    for (const Path& shard : shards)
      EXPECT_TRUE(std::any_of(report.problems.begin(), report.problems.end(), [&](const auto& p) {
        return p.file == shard && p.row.has_value();
      })) << shard;
    std::map<std::string, std::size_t> kept;
    for (const auto& one : store::repair_run(study_->path(name), report))
      if (one.rows > 0) kept[one.file.parent_path().filename().string()] = one.rows - one.kept;
    EXPECT_EQ(kept.size(), shards.size()) << "rows of all of them are kept";
    for (const auto& [stage, bad] : kept) EXPECT_EQ(bad, 1u) << stage;

    ASSERT_EQ(run(2, name, fused ? "pF" : "pgafl", fused ? "fused=1" : ""), 0) << output();

    EXPECT_EQ(hashes(name), expected);
    EXPECT_TRUE(store::verify_run(study_->path(name)).problems.empty());
    for (const std::string& stage : fused ? std::vector<std::string>{"fused"}
                                          : std::vector<std::string>{"generate", "annotate", "filter.scores"}) {
      std::int64_t made = 0;
      for (const RankShare& share : read_record(dir, stage)->ranks) made += share.items;
      EXPECT_EQ(made, 1) << stage << ": only the damaged row is made";
    }
  }
}

}  // namespace divergen::stages

int main(int argc, char** argv) {
  if (const char* seed = std::getenv("POISON")) divergen::stages::poison_generators(std::strtoull(seed, nullptr, 10));
  return divergen::test::tiny_study_main(argc, argv);
}
