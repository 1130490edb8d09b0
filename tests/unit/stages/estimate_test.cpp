#include "stages/plan/estimate.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

const StageEstimate& stage_of(const PlanEstimate& estimate, const std::string& name) {
  for (const StageEstimate& stage : estimate.stages)
    if (stage.stage == name) return stage;
  throw std::runtime_error("no stage " + name);
}

class EstimateTest : public testing::Test {
 protected:
  EstimateTest() {
    config.run.dir = folder.path();
    config.generators.resize(1);
    config.generators[0].name = "sd";
    config.generators[0].samples_per_prompt = 1000;
    PlanInput input;
    input.categories = {{1, "cup", "r", false, {{"manual", {"a cup"}}}, 0},
                        {2, "dog", "f", false, {{"manual", {"a dog", "one dog"}}}, 0},
                        {3, "imp", "", true, {}, 0}};
    input.generators = {{"sd", 1000, {"manual"}}};
    plan = make_plan(input);
  }

  test::TemporaryFolder folder;
  config::RunConfig config;
  Plan plan;
};

}  // namespace

TEST_F(EstimateTest, CountsWhatThePlanHolds) {
  const PlanEstimate estimate = estimate_plan(config, plan);

  EXPECT_EQ(estimate.items, 3000);
  EXPECT_EQ(estimate.items_of_group.at("rare"), 1000);
  EXPECT_EQ(estimate.items_of_group.at("frequent"), 2000);
  EXPECT_EQ(estimate.categories_without_items, 1);
  EXPECT_EQ(stage_of(estimate, "generate.sd").files, static_cast<std::int64_t>(plan.shards()));
}

TEST_F(EstimateTest, HoursFollowStepsAndSize) {
  const double before = stage_of(estimate_plan(config, plan), "generate.sd").device_hours;
  EXPECT_NEAR(before, 3000 * 0.85 / 3600, 1e-9);  // Stable Diffusion's published 0.85 s a picture

  config.generators[0].steps /= 2;
  config.generators[0].size = 256;

  EXPECT_NEAR(stage_of(estimate_plan(config, plan), "generate.sd").device_hours, before / 8, 1e-9);
}

TEST_F(EstimateTest, AFusedRunKeepsCutOutsInsteadOfPicturesAndMasks) {
  const PlanEstimate staged = estimate_plan(config, plan);
  config.run.fused = true;
  const PlanEstimate fused = estimate_plan(config, plan);

  EXPECT_EQ(stage_of(fused, "generate.sd").bytes, 0);
  EXPECT_EQ(stage_of(fused, "annotate").files, 0);
  EXPECT_EQ(stage_of(fused, "fused").files, static_cast<std::int64_t>(plan.shards()));
  EXPECT_EQ(stage_of(fused, "fused").bytes, stage_of(fused, "pool").bytes);
  EXPECT_EQ(stage_of(fused, "generate.sd").device_hours, stage_of(staged, "generate.sd").device_hours);
}

TEST_F(EstimateTest, WhatTheRunHasMeasuredWins) {
  StageRecord record;
  record.stage = "generate";
  record.items = 100;
  record.ranks = {{0, "host", 100, 50, 0, 50}};
  record.figures["bytes"] = 5000;
  make_folder(folder / "stages");
  write_record(RunDirectory(folder.path()), record);

  const StageEstimate stage = stage_of(estimate_plan(config, plan), "generate.sd");

  EXPECT_NEAR(stage.device_hours, 3000 * 0.5 / 3600, 1e-9);
  EXPECT_NEAR(stage.bytes, 3000 * 50, 1e-6);
  EXPECT_NE(stage.basis.find("measured"), std::string::npos);
}

TEST_F(EstimateTest, ReadsTheSameAsTextAndAsJson) {
  const PlanEstimate estimate = estimate_plan(config, plan);

  EXPECT_NE(to_text(estimate).find("3,000 items of 3 categories (extra 0, frequent 2,000, rare 1,000)"),
            std::string::npos)
      << to_text(estimate);
  const auto json = nlohmann::json::parse(to_json(estimate));
  EXPECT_EQ(json["items"], 3000);
  EXPECT_EQ(json["stages"].size(), estimate.stages.size());
}

}  // namespace divergen::stages
