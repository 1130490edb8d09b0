#include "stages/plan/plan.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <set>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

PlanInput two_by_two() {
  PlanInput input;
  input.seed = 7;
  input.categories = {{3, "cat", "f", false, {{"manual", {"a cat", "one cat"}}}},
                      {9, "koala", "c", true, {{"manual", {"a koala"}}, {"gpt", {"a koala", "a grey koala"}}}}};
  input.generators = {{"sd", 2, {"manual"}}, {"if", 1, {"manual"}}};
  input.shard_items = 4;
  return input;
}

std::map<std::uint64_t, std::uint64_t> seeds_by_id(const Plan& plan) {
  std::map<std::uint64_t, std::uint64_t> out;
  for (std::size_t i = 0; i < plan.size(); ++i) out[plan.item_id[i]] = plan.seed[i];
  return out;
}

}  // namespace

TEST(Plan, HoldsEveryCombinationOnce) {
  const Plan plan = make_plan(two_by_two());

  EXPECT_EQ(plan.size(), 3u * 2 + 3u * 1);
  EXPECT_EQ(seeds_by_id(plan).size(), plan.size());
}

TEST(Plan, ShardsCoverAllItemsAndKeepToOneGenerator) {
  const Plan plan = make_plan(two_by_two());
  std::size_t next = 0;

  for (std::size_t s = 0; s < plan.shards(); ++s) {
    const auto range = plan.shard(s);
    EXPECT_EQ(range.first, next);
    EXPECT_LE(range.last - range.first, 4u);
    EXPECT_EQ(plan.generator[range.first], plan.generator[range.last - 1]);
    next = range.last;
  }

  EXPECT_EQ(next, plan.size());
}

TEST(Plan, KeepsItemsWhenCategoriesAreAdded) {
  PlanInput more = two_by_two();
  more.categories.insert(more.categories.begin(), {1, "ant", "r", false, {{"manual", {"an ant"}}}});

  const auto before = seeds_by_id(make_plan(two_by_two()));
  const auto after = seeds_by_id(make_plan(more));

  for (const auto& [id, seed] : before) EXPECT_EQ(after.at(id), seed);
}

TEST(Plan, SurvivesItsFile) {
  const Plan plan = make_plan(two_by_two());
  const Path file = std::filesystem::temp_directory_path() / cat("divergen-plan-", ::getpid(), ".h5");

  write_plan(plan, file);
  const Plan again = read_plan(file);
  remove_quietly(file);

  EXPECT_EQ(again.hash(), plan.hash());
  EXPECT_EQ(again.prompts, plan.prompts);
  EXPECT_EQ(again.shards(), plan.shards());
  EXPECT_TRUE(again.categories[1].is_extra);
}

TEST(Plan, EachGeneratorPaintsThePromptsOfItsOwnSources) {
  PlanInput input = two_by_two();
  input.generators = {{"sd", 2, {"manual"}}, {"if", 1, {"gpt", "manual"}}};
  const Plan plan = make_plan(input);
  std::multiset<std::string> painted;

  for (std::size_t i = 0; i < plan.size(); ++i)
    if (plan.generators[static_cast<std::size_t>(plan.generator[i])] == "if")
      painted.insert(plan.prompts[static_cast<std::size_t>(plan.prompt[i])]);

  EXPECT_EQ(painted, (std::multiset<std::string>{"a cat", "one cat", "a koala", "a grey koala"}));
}

TEST(Plan, KeepsItemsWhenAGeneratorGetsMoreSources) {
  PlanInput more = two_by_two();
  more.generators[0].sources = {"gpt", "manual"};

  const auto before = seeds_by_id(make_plan(two_by_two()));
  const auto after = seeds_by_id(make_plan(more));

  EXPECT_EQ(after.size(), before.size() + 2);
  for (const auto& [id, seed] : before) EXPECT_EQ(after.at(id), seed);
}

TEST(Plan, LeavesOutACategoryThatASourceDoesNotKnow) {
  PlanInput input = two_by_two();
  input.generators = {{"if", 1, {"gpt"}}};

  const Plan plan = make_plan(input);

  EXPECT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan.categories.size(), 2u);
}

TEST(Plan, RefusesAGeneratorWithoutAnyPrompt) {
  PlanInput input = two_by_two();
  input.generators[1].sources = {"elsewhere"};

  EXPECT_THROW(make_plan(input), Error);
}

TEST(Plan, WritesTheManualTemplateAsPublished) {
  EXPECT_EQ(template_prompt("aerosol_can", "a dispenser"),
            "a photo of a single aerosol can, a dispenser, in a white background");
  EXPECT_EQ(template_prompt("dog", ""), "a photo of a single dog, in a white background");
}

}  // namespace divergen::stages
