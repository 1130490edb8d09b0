#include "stages/plan/plan.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <tuple>

#include "base/error.hpp"
#include "support/fixtures.hpp"

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

TEST(Plan, LargeOnesEndInSmallShards) {
  PlanInput input = two_by_two();
  input.shard_items = 8;
  input.generators[0].samples_per_prompt = 3000;
  const Plan plan = make_plan(input);
  ASSERT_GE(plan.size(), 1024u * 8);
  ASSERT_EQ(plan.taper_from, static_cast<std::int64_t>(plan.size() - plan.size() / 8));
  std::size_t next = 0, small = 0;
  for (std::size_t i = 0; i < plan.shards(); ++i) {
    const auto [first, last] = plan.shard(i);
    EXPECT_EQ(first, next);
    EXPECT_LE(last - first, static_cast<std::int64_t>(first) < plan.taper_from ? 8u : 2u);
    EXPECT_EQ(plan.generator[first], plan.generator[last - 1]);
    small += last - first == 2;
    next = last;
  }
  EXPECT_EQ(next, plan.size());
  EXPECT_NEAR(static_cast<double>(small), static_cast<double>(plan.size()) / 16, 8);

  const test::TemporaryFolder folder;
  write_plan(plan, folder.path() / "plan.h5");
  const Plan back = read_plan(folder.path() / "plan.h5");
  EXPECT_EQ(back.shards(), plan.shards());
  EXPECT_EQ(back.hash(), plan.hash());
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

TEST(Plan, AQuotaIsSpreadOverThePromptsAndKeepsItems) {
  PlanInput input = two_by_two();
  const auto before = seeds_by_id(make_plan(input));
  input.categories[0].quota = 5;  // two prompts: three samples and two
  input.categories[1].quota = 1;

  const Plan plan = make_plan(input);

  std::map<std::tuple<std::int32_t, std::string, std::string>, int> counts;
  for (std::size_t i = 0; i < plan.size(); ++i)
    ++counts[{plan.generator[i], plan.categories[static_cast<std::size_t>(plan.category[i])].name,
              plan.prompts[static_cast<std::size_t>(plan.prompt[i])]}];
  EXPECT_EQ((counts[{0, "cat", "a cat"}]), 3);
  EXPECT_EQ((counts[{0, "cat", "one cat"}]), 2);
  EXPECT_EQ((counts[{1, "cat", "a cat"}]), 3);
  EXPECT_EQ((counts[{0, "koala", "a koala"}]), 1);
  EXPECT_EQ(plan.size(), 2u * (5 + 1));
  std::size_t shared = 0;
  for (const auto& [id, seed] : seeds_by_id(plan)) {
    const auto found = before.find(id);
    if (found == before.end()) continue;
    EXPECT_EQ(found->second, seed);
    ++shared;
  }
  EXPECT_EQ(shared, 4u + 1u + 2u + 1u);  // of sd: both cat prompts twice, one koala; of if: both cats, one koala
}

// The id of reference/reliability.md: 100,000 categories and 10 million items, one category with nothing and one with a
// million. The default is a tenth; DIVERGEN_FULL=1 runs it whole (and says what it took).
TEST(Plan, ManyCategories) {
  const bool is_full = std::getenv("DIVERGEN_FULL") != nullptr;
  const std::int32_t categories = is_full ? 100'000 : 10'000;
  const std::int64_t large = is_full ? 1'000'000 : 100'000;
  PlanInput input;
  input.generators = {{"sd", 10, {"manual"}}};
  for (std::int32_t id = 1; id <= categories; ++id) {
    PlanCategory category{id, cat("category_", id), "c", false, {}, 0};
    for (int p = 0; p < 9 && id > 1; ++p) category.prompts["manual"].push_back(cat("picture ", p, " of thing ", id));
    if (id == categories) category.quota = large;
    input.categories.push_back(std::move(category));
  }
  const auto start = std::chrono::steady_clock::now();

  const Plan plan = make_plan(input);
  const test::TemporaryFolder folder;
  write_plan(plan, folder / "plan.h5");
  const Plan again = read_plan(folder / "plan.h5");

  EXPECT_EQ(plan.size(), static_cast<std::size_t>((categories - 2) * std::int64_t{90} + large));
  EXPECT_EQ(again.hash(), plan.hash());
  // Balanced to one item: over the categories (all have 90 but those two), and over the prompts within each.
  std::vector<std::int64_t> of_category(plan.categories.size(), 0), of_prompt(plan.prompts.size(), 0);
  std::vector<std::int32_t> owner(plan.prompts.size(), -1);
  for (std::size_t i = 0; i < plan.size(); ++i) {
    ++of_category[static_cast<std::size_t>(plan.category[i])];
    ++of_prompt[static_cast<std::size_t>(plan.prompt[i])];
    owner[static_cast<std::size_t>(plan.prompt[i])] = plan.category[i];
  }
  std::int64_t empty = 0, full = 0, off = 0;
  for (std::size_t c = 0; c < of_category.size(); ++c) {
    empty += of_category[c] == 0;
    full += of_category[c] == large;
    off += of_category[c] != 0 && of_category[c] != large && of_category[c] != 90;
  }
  // A category without prompts may be left out of the plan's list altogether.
  EXPECT_EQ(empty + (categories - static_cast<std::int64_t>(of_category.size())), 1);
  EXPECT_EQ(full, 1);
  EXPECT_EQ(off, 0);
  std::int64_t unbalanced = 0;
  for (std::size_t p = 0; p < of_prompt.size(); ++p) {
    const double wanted = static_cast<double>(of_category[static_cast<std::size_t>(owner[p])]) / 9;
    unbalanced += std::abs(static_cast<double>(of_prompt[p]) - wanted) >= 1;
  }
  EXPECT_EQ(unbalanced, 0) << "prompts whose number of items is off by one or more";
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%zu items of %d categories: %.1f s, %.2f GB\n", plan.size(), categories, seconds,
              static_cast<double>(used.ru_maxrss) / (1 << 20));
  EXPECT_LT(used.ru_maxrss, 2 << 20) << "kilobytes";
}

}  // namespace divergen::stages
