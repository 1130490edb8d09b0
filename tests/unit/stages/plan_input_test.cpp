#include "stages/plan/plan_input.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.hpp"
#include "stages/plan/categories.hpp"
#include "stages/plan/prompts.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kCategories = R"([
  {"id": 3, "name": "airplane", "def": "an aircraft", "frequency": "f", "role": "eval"},
  {"id": 7, "name": "aerosol_can", "def": "a dispenser", "frequency": "r"},
  {"id": 9001, "name": "koala", "role": "extra"}])";

class PlanInputTest : public testing::Test {
 protected:
  PlanInputTest() {
    config.data.categories = write("categories.json", kCategories);
    config.prompts = {{"manual", "template", {}, 0, {}, {}, {}}, {"gpt", "folder", folder / "gpt", 2, {}, {}, {}}};
    config.generators.resize(1);
    config.generators[0].name = "sd";
    config.generators[0].prompts = {"manual", "gpt"};
    make_folder(folder / "gpt");
    write("gpt/7.txt", "a red can\n\na red can\nan old can\na third can\n");
  }
  Path write(const std::string& name, const std::string& text) {
    write_file_atomic(folder / name, text);
    return folder / name;
  }
  std::string refusal() {
    try {
      plan_input(config);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  test::TemporaryFolder folder;
  config::RunConfig config;
};

}  // namespace

TEST_F(PlanInputTest, TakesEachSourcesPromptsOfEachCategory) {
  const PlanInput input = plan_input(config);

  ASSERT_EQ(input.categories.size(), 3u);
  EXPECT_EQ(input.categories[1].prompts.at("manual"),
            std::vector<std::string>{"a photo of a single aerosol can, a dispenser, in a white background"});
  EXPECT_EQ(input.categories[1].prompts.at("gpt"), (std::vector<std::string>{"a red can", "an old can"}));
  EXPECT_FALSE(input.categories[0].prompts.contains("gpt"));
  EXPECT_TRUE(input.categories[2].is_extra);
  EXPECT_EQ(make_plan(input).size(), 3u + 2u);
}

TEST_F(PlanInputTest, LeavesOutWhatThePlanLeavesOut) {
  config.plan.frequencies = {"r"};
  config.plan.extra_categories = false;

  const PlanInput input = plan_input(config);

  ASSERT_EQ(input.categories.size(), 1u);
  EXPECT_EQ(input.categories[0].id, 7);
}

TEST_F(PlanInputTest, RefusesWhenNoCategoryIsLeft) {
  config.plan.frequencies = {"c"};
  config.plan.extra_categories = false;

  EXPECT_NE(refusal().find("no category is left"), std::string::npos);
}

TEST_F(PlanInputTest, NamesTheMissingFolderOfPrompts) {
  config.prompts[1].folder = folder / "absent";

  EXPECT_NE(refusal().find("prompts.gpt.folder"), std::string::npos);
}

TEST_F(PlanInputTest, RefusesAnEmptyOrDamagedCategoryFile) {
  for (const auto& [text, why] : {std::pair{"[]", "no category"},
                                  {"[{", "not JSON"},
                                  {"3", "not a list"},
                                  {R"([{"name": "x"}])", "'id'"},
                                  {R"([{"id": 1, "name": "x"}, {"id": 1, "name": "y"}])", "twice"},
                                  {R"([{"id": 1, "name": "x", "role": "main"}])", "role"}}) {
    write("categories.json", text);
    EXPECT_NE(refusal().find(why), std::string::npos) << text << " -> " << refusal();
  }
}

TEST_F(PlanInputTest, ReadsAnnotationFilesToo) {
  const auto categories =
      read_categories(write("coco.json", cat(R"({"images": [], "categories": )", kCategories, "}")));

  EXPECT_EQ(categories.size(), 3u);
  EXPECT_EQ(categories[2].frequency, "");
}

TEST_F(PlanInputTest, GivesEachGroupItsQuotaAndAFileTheLastWord) {
  config.plan.quota.rare = 10;
  config.plan.quota.extra = 4;
  config.plan.quota.file = write("quota.json", R"({"3": 2})");

  const PlanInput input = plan_input(config);

  EXPECT_EQ(input.categories[0].quota, 2);
  EXPECT_EQ(input.categories[1].quota, 10);
  EXPECT_EQ(input.categories[2].quota, 4);
  EXPECT_EQ(make_plan(input).size(), 2u + 10 + 4);
}

TEST_F(PlanInputTest, AGeneratorsOwnQuotaTakesThePlaceOfThePlans) {
  config.plan.quota.rare = 10;
  config.plan.quota.extra = 4;
  config.generators.push_back(config.generators.front());
  config.generators.back().name = "other";
  config.generators.back().quota = config::QuotaSettings{.rare = 3};

  const Plan plan = make_plan(plan_input(config));

  std::vector<std::vector<int>> items(2, std::vector<int>(plan.categories.size()));
  for (std::size_t row = 0; row < plan.size(); ++row)
    ++items[static_cast<std::size_t>(plan.generator[row])][static_cast<std::size_t>(plan.category[row])];
  EXPECT_EQ(items[0][1], 10);
  EXPECT_EQ(items[0][2], 4);
  EXPECT_EQ(items[1][1], 3);
  EXPECT_EQ(items[1][2], 1) << "without a quota of its own, samples_per_prompt";
}

TEST_F(PlanInputTest, RefusesADamagedFileOfQuotas) {
  for (const auto& [text, why] :
       {std::pair{"[]", "no JSON object"}, {R"({"x": 2})", "key 'x'"}, {R"({"3": -1})", "key '3'"}}) {
    config.plan.quota.file = write("quota.json", text);
    EXPECT_NE(refusal().find(why), std::string::npos) << text << " -> " << refusal();
  }
}

TEST_F(PlanInputTest, ListsServeEveryCategoryAndEachItsOwn) {
  const Path list = write("list.toml", "\"7\" = [\"a dented {name}\"]\nairplane = [\"a jet\", \"a jet\"]\n");
  config.prompts = {{"manual", "list", {}, 0, {}, {"a {name}, {def}"}, list}};
  config.generators[0].prompts = {"manual"};

  const PlanInput input = plan_input(config);

  EXPECT_EQ(input.categories[0].prompts.at("manual"), (std::vector<std::string>{"a jet", "a airplane, an aircraft"}));
  EXPECT_EQ(input.categories[1].prompts.at("manual"),
            (std::vector<std::string>{"a dented aerosol can", "a aerosol can, a dispenser"}));
  EXPECT_EQ(input.categories[2].prompts.at("manual"), std::vector<std::string>{"a koala"});
  write("list.toml", "airplane = 3\n");
  EXPECT_NE(refusal().find("list.toml:1"), std::string::npos) << refusal();
}

TEST(Prompts, ManualTemplateIsThePublishedSentence) {
  EXPECT_EQ(expand_prompt(kManualTemplate, "aerosol_can", "a dispenser"),
            "a photo of a single aerosol can, a dispenser, in a white background");
  EXPECT_EQ(expand_prompt(kManualTemplate, "dog", ""), "a photo of a single dog, in a white background");
  EXPECT_EQ(expand_prompt("a {name}, {def}", "cup", "a {name} of {def}"), "a cup, a {name} of {def}");
}

TEST(Prompts, PublishedSetsAreReadFromTheirArchives) {
  // Counts of reference/semantics.md §2: files, and prompts without the repeated ones.
  const Path folder = Path(DIVERGEN_SOURCE_DIR) / "data/prompts";
  std::size_t files = 0, prompts = 0;
  for (const char* set : {"gpt_prompt", "imgnet_prompt", "lvis_prompt"}) {
    for (const auto& [name, text] : read_tar_gz(folder / cat(set, ".tar.gz"))) {
      ++files;
      prompts += prompt_lines(text).size();
      EXPECT_TRUE(name.ends_with(".txt")) << name;
    }
  }
  EXPECT_EQ(files, 144u + 250 + 1059);
  EXPECT_EQ(prompts, 128u * 144 - 342 + 250 + 1059);

  config::PromptSettings settings{"lvis", "folder", folder / "lvis_prompt.tar.gz", 1, {}, {}, {}};
  const CategoryInfo first{1, "aerosol_can", "a dispenser that holds a substance under pressure", "c", false};
  EXPECT_EQ(PromptSource(settings).prompts_of(first),
            std::vector<std::string>{expand_prompt(kManualTemplate, first.name, first.definition)});
}

TEST(Prompts, ADamagedArchiveIsRefusedByName) {
  const test::TemporaryFolder folder;
  const std::string whole = read_file(Path(DIVERGEN_SOURCE_DIR) / "data/prompts/imgnet_prompt.tar.gz");
  const auto refusal = [&](const std::string& bytes, std::size_t most = 1 << 30) -> std::string {
    write_file_atomic(folder / "p.tar.gz", bytes);
    try {
      read_tar_gz(folder / "p.tar.gz", most);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(whole), "");
  EXPECT_NE(refusal(whole.substr(0, whole.size() / 2)).find("p.tar.gz"), std::string::npos);
  EXPECT_NE(refusal("plain text").find("gzip"), std::string::npos);
  EXPECT_NE(refusal(whole, 1000).find("1000 bytes"), std::string::npos);
  std::string damaged = whole;
  damaged[damaged.size() / 2] ^= 1;
  EXPECT_NE(refusal(damaged), "");
}

}  // namespace divergen::stages
