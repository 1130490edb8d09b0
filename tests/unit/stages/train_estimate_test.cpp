// What a training is said to cost: parameters are exact, the rest follows from the settings, and what is assumed is
// said.

#include "stages/plan/train_estimate.hpp"

#include <gtest/gtest.h>

#include <sstream>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "stages/common/run_directory.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages {
namespace {

/// Parameters in a table of keys: kind, name, type, shape, requires_grad.
std::int64_t parameters_in(const std::string& table) {
  std::istringstream in(read_file(test::fixtures("detector") / table));
  std::int64_t sum = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string kind, name, type, shape;
    fields >> kind >> name >> type >> shape;
    if (kind != "param") continue;
    std::int64_t count = 1;
    std::istringstream sides(shape);
    for (std::string side; std::getline(sides, side, 'x');) count *= std::stoll(side);
    sum += count;
  }
  return sum;
}

config::RunConfig recipe(const std::string& name) {
  return config::read_run_config(Path(DIVERGEN_SOURCE_DIR) / "configs" / (name + ".toml"));
}

double amount(const std::vector<Amount>& list, const std::string& start) {
  for (const Amount& a : list)
    if (a.what.starts_with(start)) return a.bytes;
  return -1;
}

bool says(const TrainingEstimate& estimate, const std::string& words) {
  for (const std::string& line : estimate.basis)
    if (line.find(words) != std::string::npos) return true;
  return false;
}

class TrainEstimate : public testing::Test {
 protected:
  TrainEstimate() : config(recipe("divergen_swinL")) {
    config.run.dir = folder.path() / "run";
    config.data.categories = config.data.train_json = folder / "not_there.json";
  }
  config::TrainSettings& training() { return config.trainings.front(); }
  test::TemporaryFolder folder;
  config::RunConfig config;
};

}  // namespace

TEST_F(TrainEstimate, ParametersAreThoseOfThePublishedDetectors) {
  const auto parameters = [](const config::RunConfig& c, std::int64_t classes) {
    return detector_sizes(c.detector, classes, c.augment.train_size, false).parameters;
  };
  EXPECT_EQ(parameters(config, 1453), parameters_in("keys_swinL.tsv"));
  EXPECT_EQ(parameters(recipe("baseline_swinL"), 1203), parameters_in("keys_swinL_lvis.tsv"));
  EXPECT_EQ(parameters(recipe("baseline_r50"), 1203), parameters_in("keys_r50.tsv"));
}

TEST_F(TrainEstimate, NeedsNeitherWeightsNorDataAndSaysWhatItAssumes) {
  const TrainingEstimate e = estimate_training(config, training(), 8);

  EXPECT_EQ(e.samples, 180000 * 16);
  EXPECT_EQ(e.classes, 1453);
  EXPECT_TRUE(says(e, "classes: 1,453 assumed"));
  EXPECT_TRUE(says(e, "images: 99,388 assumed"));
  EXPECT_TRUE(says(e, "speed: assumed"));
  EXPECT_NEAR(e.epochs, 180000.0 * 16 / 99388, 1e-9);
  EXPECT_GT(e.hours, 0);
  const double n = 4.0 * static_cast<double>(e.parameters);
  EXPECT_EQ(amount(e.device, "weights"), n);
  EXPECT_EQ(amount(e.device, "optimizer"), 2 * n);
  EXPECT_EQ(amount(e.device, "averaged"), n);
  EXPECT_EQ(e.checkpoint_bytes, 4 * n);  // weights, two moments, averages
  EXPECT_EQ(e.checkpoints, training().keep_checkpoints + training().iterations / training().keep_every);
  EXPECT_GT(e.device_bytes(), 5 * n);
  // A Swin-L step with two images of 896 px is known to fit a device of 80 GB, and not one of 8.
  EXPECT_GT(e.device_bytes(), 8e9);
  EXPECT_LT(e.device_bytes(), 60e9);
  EXPECT_NE(to_text(e).find("180,000 steps"), std::string::npos);
  const auto json = nlohmann::json::parse(to_json(e));
  EXPECT_EQ(json.at("parameters"), e.parameters);
  EXPECT_EQ(json.at("device_bytes").get<double>(), e.device_bytes());
}

TEST_F(TrainEstimate, FollowsTheSettings) {
  training().activation_checkpointing = false;
  training().precision = "fp32";
  training().accumulate = 1;
  const TrainingEstimate plain = estimate_training(config, training(), 8);
  const auto activations = [](const TrainingEstimate& e) { return amount(e.device, "activations"); };

  training().accumulate = 2;
  EXPECT_NEAR(activations(estimate_training(config, training(), 8)), activations(plain) / 2, 1);
  training().accumulate = 1;
  EXPECT_NEAR(activations(estimate_training(config, training(), 4)), activations(plain) * 2, 1);

  training().activation_checkpointing = true;
  const TrainingEstimate again = estimate_training(config, training(), 8);
  EXPECT_LT(activations(again), activations(plain) / 2);
  EXPECT_NEAR(again.hours, plain.hours * 4 / 3, 1e-6 * plain.hours);
  training().activation_checkpointing = false;

  training().precision = "fp16";
  const TrainingEstimate half = estimate_training(config, training(), 8);
  EXPECT_LT(activations(half), activations(plain));
  EXPECT_GT(amount(half.device, "weights in half precision"), 0);

  training().ema = 0;
  const TrainingEstimate bare = estimate_training(config, training(), 8);
  EXPECT_EQ(amount(bare.device, "averaged"), -1);
  EXPECT_EQ(bare.checkpoint_bytes, plain.checkpoint_bytes * 3 / 4);
  EXPECT_LT(bare.disk_bytes, plain.disk_bytes);
  EXPECT_EQ(amount(estimate_training(config, training(), 1).device, "buckets"), -1);
  EXPECT_TRUE(says(estimate_training(config, training(), 5), "cannot be shared evenly"));
}

TEST_F(TrainEstimate, CountsTheDataSetWhereItIsThere) {
  config.data.categories = folder / "categories.json";
  config.data.train_json = folder / "train.json";
  write_file_atomic(config.data.categories, R"([{"id":1,"name":"a"},{"id":2,"name":"b"},{"id":9,"name":"c"}])");
  write_file_atomic(config.data.train_json,
                    R"({"categories":[{"id":1}],"images":[{"id":1,"height":4,"width":4},{"id":2,"height":4,"width":4},
      {"id":3,"height":4,"width":4}],"annotations":[
      {"id":1,"image_id":1,"category_id":1,"bbox":[0,0,1,1],"area":1,"segmentation":[]},
      {"id":2,"image_id":1,"category_id":1,"bbox":[0,0,1,1],"area":1,"segmentation":[]},
      {"id":3,"image_id":3,"category_id":1,"bbox":[0,0,1,1],"area":1,"segmentation":[]},
      {"id":4,"image_id":2,"category_id":1,"bbox":[0,0,1,1],"area":1,"iscrowd":1,"segmentation":[]}]})");

  const TrainingEstimate e = estimate_training(config, training(), 1);

  EXPECT_EQ(e.classes, 3);
  EXPECT_EQ(e.images, 2);  // that have an object which is no crowd
  EXPECT_FALSE(says(e, "images: "));

  write_file_atomic(config.data.categories, "{}");
  EXPECT_THROW(estimate_training(config, training(), 1), Error);
}

TEST_F(TrainEstimate, WhatTheRunHasMeasuredWins) {
  const RunDirectory dir(config.run.dir);
  make_folder(dir.training(training().name));
  write_file_atomic(dir.training(training().name) / "log.jsonl",
                    "{\"iteration\":20,\"images_per_second\":3}\n{\"iteration\":40,\"images_per_second\":5}\n"
                    "{\"iteration\":60,\"images_per_second\":4}\n{\"iterat");
  const TrainingEstimate from_log = estimate_training(config, training(), 8);
  EXPECT_EQ(from_log.samples_per_second, 4);
  EXPECT_TRUE(says(from_log, "this training's log"));
  EXPECT_NEAR(from_log.hours, 180000.0 * 16 / 4 / 3600, 1e-9);

  StageRecord record;
  record.stage = "train." + training().name;
  record.ranks.resize(2);
  record.figures["images_per_second"] = 6;
  write_record(dir, record);
  const TrainingEstimate from_record = estimate_training(config, training(), 8);
  EXPECT_EQ(from_record.samples_per_second, 24);  // 3 a rank
  EXPECT_TRUE(says(from_record, "on 2 ranks"));
}

}  // namespace divergen::stages
