#include "stages/plan/plan_input.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.hpp"
#include "stages/plan/categories.hpp"
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
    config.prompts = {{"manual", "template", {}, 0}, {"gpt", "folder", folder / "gpt", 2}};
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

}  // namespace divergen::stages
