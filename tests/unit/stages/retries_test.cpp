#include "stages/plan/retries.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "stages/common/shard_request.hpp"
#include "store/library.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

PlanInput input() {
  PlanInput out;
  out.seed = 4;
  out.categories = {{3, "dog", "f", false, {{"manual", {"a dog", "the dog"}}}},
                    {8, "cat", "r", false, {{"manual", {"a cat"}}}}};
  out.generators = {{"sd", 2, {"manual"}}, {"if", 1, {"manual"}}};
  out.shard_items = 4;
  return out;
}

}  // namespace

TEST(Retries, GiveEachWantingItemOneFurtherSampleARoundUpToTheBound) {
  Plan plan = make_plan(input());
  const std::size_t own = plan.size();
  std::vector<std::uint8_t> wanting(own, 0);
  wanting[1] = wanting[7] = 1;  // of the first and the second generator
  EXPECT_EQ(add_retries(plan, 4, wanting, 2), 2u);
  EXPECT_EQ(plan.rounds(), 2u);
  EXPECT_EQ(plan.size(), own + 2);
  EXPECT_EQ(plan.sample[own], plan.sample[1] + store::kSamplesPerAttempt);
  EXPECT_EQ(store::attempt_of(plan.sample[own]), 1);
  EXPECT_EQ(plan.prompt[own], plan.prompt[1]);
  EXPECT_EQ(plan.generator[own + 1], 1);
  EXPECT_NE(plan.seed[own], plan.seed[1]);
  EXPECT_EQ(plan.shards(), 2u + 1 + 2) << "a shard is of one round and one generator";
  EXPECT_EQ(plan.round_of(2), 0u);
  EXPECT_EQ(plan.round_of(3), 1u);

  wanting.assign(plan.size(), 0);
  wanting[1] = wanting[7] = wanting[own] = 1;  // the first retry was rejected, the second was kept
  EXPECT_EQ(add_retries(plan, 4, wanting, 2), 1u);
  EXPECT_EQ(store::attempt_of(plan.sample.back()), 2);
  wanting.assign(plan.size(), 1);
  Plan full = plan;
  EXPECT_EQ(add_retries(full, 4, wanting, 2), own - 2 + 1) << "all others begin, the first is at its bound";
  wanting.assign(plan.size(), 0);
  EXPECT_EQ(add_retries(plan, 4, wanting, 2), 0u);
  EXPECT_EQ(plan.rounds(), 3u) << "no round without an item";
  EXPECT_EQ(std::set(plan.item_id.begin(), plan.item_id.end()).size(), plan.size());
}

TEST(Retries, LeaveTheHashesOfTheRoundsBeforeThem) {
  Plan plan = make_plan(input());
  const std::uint64_t before = plan.hash();
  std::vector<std::uint8_t> wanting(plan.size(), 1);
  add_retries(plan, 4, wanting, 1);
  EXPECT_EQ(plan.hash(0), before);
  EXPECT_NE(plan.hash(), before);
  EXPECT_EQ(plan.hash(1), plan.hash());
}

TEST(Retries, SurviveTheirFileAndAreRefusedForAnotherPlan) {
  const test::TemporaryFolder folder;
  const RunDirectory dir(folder.path());
  Plan plan = make_plan(input());
  write_plan(plan, dir.plan());
  EXPECT_EQ(read_plan(dir).hash(), plan.hash());
  add_retries(plan, 4, std::vector<std::uint8_t>(plan.size(), 1), 3);
  add_retries(plan, 4, std::vector<std::uint8_t>(plan.size(), 1), 3);
  write_retries(plan, dir);
  const Plan again = read_plan(dir);
  EXPECT_EQ(again.hash(), plan.hash());
  EXPECT_EQ(again.round_starts, plan.round_starts);
  EXPECT_EQ(again.shards(), plan.shards());
  EXPECT_EQ(again.sample, plan.sample);

  PlanInput other = input();
  other.seed = 5;
  std::filesystem::remove(dir.plan());
  write_plan(make_plan(other), dir.plan());
  EXPECT_THROW(read_plan(dir), Error);
}

TEST(Retries, TellSampleAndAttemptApart) {
  Plan plan = make_plan(input());
  EXPECT_EQ(store::attempt_of(store::kSamplesPerAttempt - 1), 0);
  plan.sample[0] = store::kSamplesPerAttempt - 1;
  const std::vector<std::uint8_t> all(plan.size(), 1);
  Plan fits = plan;
  EXPECT_NO_THROW(add_retries(fits, 4, all, 1));
  EXPECT_EQ(store::attempt_of(fits.sample.back()), 1);
  ++plan.sample[0];
  EXPECT_THROW(add_retries(plan, 4, all, 1), Error);
}

// ---- batches with rows left out
// --------------------------------------------------------------------------------------

namespace {

/// What each row got: the place that it had, and the inputs around it.
std::map<std::size_t, std::string> run(const std::vector<int>& wanted, bool isolate, int poison = -1) {
  std::map<std::size_t, std::string> out;
  FixedBatch<int, std::string> batch(
      3, isolate,
      [&](const std::vector<int>& inputs) {
        std::vector<std::string> results;
        for (std::size_t place = 0; place < inputs.size(); ++place) {
          if (inputs[place] == poison) throw std::runtime_error("poison");
          results.push_back(cat(inputs[place], "@", place, " of ", inputs.size()));
        }
        return results;
      },
      [&](std::size_t row, std::string&& result) { out[row] = std::move(result); },
      [&](std::size_t row, const char* why) { out[row] = why; });
  for (int row = 0; row < 8; ++row) {
    if (std::count(wanted.begin(), wanted.end(), row) > 0) batch.add(static_cast<std::size_t>(row), row);
    else batch.skip(static_cast<std::size_t>(row));
  }
  batch.flush();
  return out;
}

}  // namespace

TEST(FixedBatch, RowsKeepTheirPlacesWhenOthersAreLeftOut) {
  const auto all = run({0, 1, 2, 3, 4, 5, 6, 7}, false);
  EXPECT_EQ(all.size(), 8u);
  EXPECT_EQ(all.at(4), "4@1 of 3");
  EXPECT_EQ(all.at(7), "7@1 of 3") << "the last batch is padded";
  for (const std::vector<int>& some : std::vector<std::vector<int>>{{4}, {0, 7}, {2, 3}, {1, 5, 6}}) {
    const auto got = run(some, false);
    EXPECT_EQ(got.size(), some.size());
    for (const auto& [row, result] : got) EXPECT_EQ(result, all.at(row));
  }
}

TEST(FixedBatch, IsolatesTheRowThatFails) {
  const std::vector<int> rows{0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_THROW(run(rows, false, 4), std::runtime_error);
  auto expected = run(rows, false);
  expected[4] = "poison";
  EXPECT_EQ(run(rows, true, 4), expected);
}

}  // namespace divergen::stages
