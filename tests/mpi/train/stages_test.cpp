// The train and evaluate stages with a small detector on a small data set: an interrupted training ends with the same
// bits, and an evaluation gives the same files on any number of ranks.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.hpp"
#include "base/text.hpp"
#include "lvis/evaluator.hpp"
#include "mpi/train/small_world.hpp"
#include "stages/evaluate/batches.hpp"
#include "stages/evaluate/evaluate.hpp"
#include "stages/evaluate/results.hpp"
#include "stages/evaluate/runner.hpp"
#include "stages/train/checkpoint.hpp"
#include "stages/train/train.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;
using test::SmallWorld;
using test::world;

/// The log without what a clock says.
std::vector<json> timeless_log(const Path& folder) {
  std::vector<json> out;
  for (const std::string& line : split(read_file(folder / "log.jsonl"), '\n')) {
    if (line.empty()) continue;
    out.push_back(json::parse(line));
    for (const char* key : {"seconds", "data_wait", "images_per_second", "memory_mb"}) out.back().erase(key);
  }
  return out;
}

/// Asks the last rank to stop in its n-th step of this start.
std::function<bool()> stop_after(int steps) {
  auto asked = std::make_shared<int>(0);
  return [asked, steps] { return ++*asked == steps && world().rank() == world().size() - 1; };
}

template <class Action>
ErrorKind kind_of_error(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "no error was thrown";
  return ErrorKind::Bug;
}

/// What evaluation is, in one process and without parts.
std::vector<lvis::Detection> detect_plainly(const RunContext& context, const std::string& name,
                                            const lvis::Dataset& dataset, bool averaged = true) {
  const ClassMap classes = read_class_map(context.config.data.categories);
  const auto detector =
      load_evaluated_detector(context.config.detector, classes, trained_model(context.dir, name, averaged));
  std::vector<std::vector<lvis::Detection>> by_image(dataset.images.size());
  for (const auto& batch : make_batches(dataset, context.config.evaluate)) {
    std::vector<at::Tensor> images;
    std::vector<std::array<std::int64_t, 2>> sizes;
    for (const std::size_t i : batch) {
      images.push_back(load_image(dataset.images[i], context.config.data.val_images, context.config.evaluate).pixels);
      sizes.push_back({dataset.images[i].height, dataset.images[i].width});
    }
    const auto found = detector->detect(images, sizes);
    for (std::size_t k = 0; k < batch.size(); ++k)
      by_image[batch[k]] = to_lvis(found[k], dataset.images[batch[k]].id, classes);
  }
  std::vector<lvis::Detection> out;
  for (const auto& detections : by_image) out.insert(out.end(), detections.begin(), detections.end());
  return out;
}

}  // namespace

TEST(TrainStage, EndsWithTheSameBitsAfterAnInterruption) {
  const SmallWorld small;
  const RunContext straight = small.run("straight");
  RunContext interrupted = small.run("interrupted");

  run_train(straight, small.training);
  interrupted.stop_requested = stop_after(5);
  EXPECT_EQ(kind_of_error([&] { run_train(interrupted, small.training); }), ErrorKind::Stopped);
  const Path folder = interrupted.dir.training("small");
  EXPECT_EQ(newest_checkpoint(folder / "checkpoints")->iteration, 5);
  EXPECT_FALSE(std::filesystem::exists(folder / "model.safetensors"));
  interrupted.stop_requested = [] { return false; };
  run_train(interrupted, small.training);

  for (const char* file :
       {"model.safetensors", "last.safetensors", "checkpoints/iter-00000012/model.safetensors",
        "checkpoints/iter-00000012/ema.safetensors", "checkpoints/iter-00000012/optimizer.safetensors"})
    EXPECT_TRUE(read_file(straight.dir.training("small") / file) == read_file(folder / file)) << file;
  EXPECT_EQ(timeless_log(straight.dir.training("small")), timeless_log(folder));
  EXPECT_EQ(timeless_log(folder).size(), 6u);
  EXPECT_EQ(timeless_log(folder).back().size(), 3u + 10u + 1u);  // iteration, lr, loss_total; terms; grad_norm
}

TEST(TrainStage, PastesInstancesOfExtraCategoriesToo) {
  SmallWorld small;
  small.training.use_pool = true;
  const RunContext straight = small.run("straight");
  RunContext interrupted = small.run("interrupted"), plain = small.run("plain");
  SmallWorld::write_library(straight);
  SmallWorld::write_library(interrupted);

  run_train(straight, small.training);
  interrupted.stop_requested = stop_after(7);
  EXPECT_EQ(kind_of_error([&] { run_train(interrupted, small.training); }), ErrorKind::Stopped);
  interrupted.stop_requested = [] { return false; };
  run_train(interrupted, small.training);
  small.training.use_pool = false;
  run_train(plain, small.training);

  const auto model = [](const RunContext& run) { return read_file(trained_model(run.dir, "small", true)); };
  EXPECT_TRUE(model(straight) == model(interrupted));
  EXPECT_EQ(timeless_log(straight.dir.training("small")), timeless_log(interrupted.dir.training("small")));
  // The same classes and sizes, but not the same weights: pasting happened.
  EXPECT_EQ(model(straight).size(), model(plain).size());
  EXPECT_NE(timeless_log(straight.dir.training("small")), timeless_log(plain.dir.training("small")));
}

TEST(TrainStage, DoesNothingWhenItIsComplete) {
  const SmallWorld small;
  const RunContext context = small.run("run");
  run_train(context, small.training);
  const Path model = trained_model(context.dir, "small", true);
  const auto written = std::filesystem::last_write_time(model);
  world().barrier();

  run_train(context, small.training);

  EXPECT_EQ(std::filesystem::last_write_time(model), written);
  const auto record = read_record(context.dir, "train.small");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->items, 12 * 6);
  EXPECT_EQ(record->ranks.size(), static_cast<std::size_t>(world().size()));
  EXPECT_TRUE(std::filesystem::exists(context.dir.training("small") / "samples/sample-0011.png"));
}

TEST(TrainStage, RefusesToGoOnWithOtherSettings) {
  SmallWorld small;
  RunContext context = small.run("run");
  context.stop_requested = stop_after(3);
  EXPECT_EQ(kind_of_error([&] { run_train(context, small.training); }), ErrorKind::Stopped);
  small.training.lr *= 2;

  EXPECT_EQ(kind_of_error([&] { run_train(context, small.training); }), ErrorKind::Config);
}

TEST(EvaluateStage, WritesWhatOneProcessWouldWrite) {
  const SmallWorld small;
  const RunContext context = small.run("run");
  run_train(context, small.training);

  run_evaluate(context, small.training);

  const Path folder = context.dir.evaluation("small");
  const lvis::Dataset dataset = lvis::read_dataset(small.config.data.val_json);
  const auto expected = detect_plainly(context, "small", dataset);
  ASSERT_GT(expected.size(), 20u);
  for (const auto& d : expected) EXPECT_NE(d.category_id, 13);
  const json metrics = json::parse(read_file(folder / "metrics.json"));
  for (const auto type : {lvis::IouType::Box, lvis::IouType::Mask}) {
    const bool is_box = type == lvis::IouType::Box;
    const Path file = folder / (is_box ? "results.bbox.json" : "results.segm.json");
    const Path twin = folder / cat("twin-", world().rank(), ".json");
    write_file_atomic(twin, cat(kBeforeResults, results_text(expected, type), kAfterResults));
    EXPECT_TRUE(read_file(twin) == read_file(file));
    const auto as_others_read = lvis::evaluate(dataset, lvis::read_results(file, dataset, type), type);
    for (const char* name : lvis::Summary::kNames)
      EXPECT_EQ(metrics.at(is_box ? "bbox" : "segm").at(name).get<double>(), as_others_read.summary[name]) << name;
    EXPECT_EQ(metrics.at("per_category").at(is_box ? "bbox" : "segm").size(), as_others_read.category_ap.size());
  }
  const auto record = read_record(context.dir, "evaluate.small");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->items, 11);
  EXPECT_FALSE(std::filesystem::exists(folder / "parts"));
}

TEST(EvaluateStage, UsesTheAveragedWeightsUnlessToldOtherwise) {
  SmallWorld small;
  const RunContext context = small.run("run");
  run_train(context, small.training);
  const lvis::Dataset dataset = lvis::read_dataset(small.config.data.val_json);
  const Path folder = context.dir.evaluation("small"), twin = folder / cat("twin-", world().rank(), ".json");
  std::string results[2];
  for (const bool averaged : {true, false}) {
    small.config.evaluate.use_ema = averaged;

    run_evaluate(context, small.training);

    results[averaged] = read_file(folder / "results.bbox.json");
    write_file_atomic(
        twin, cat(kBeforeResults, results_text(detect_plainly(context, "small", dataset, averaged), lvis::IouType::Box),
                  kAfterResults));
    EXPECT_TRUE(read_file(twin) == results[averaged]) << averaged;
    world().barrier();
  }
  EXPECT_TRUE(results[0] != results[1]);
}

TEST(EvaluateStage, GoesOnWhereItStopped) {
  const SmallWorld small;
  RunContext context = small.run("run");
  run_train(context, small.training);
  context.stop_requested = [asked = std::make_shared<int>(0)] { return ++*asked == 2; };
  const Path folder = context.dir.evaluation("small");
  bool stopped = false;
  try {
    run_evaluate(context, small.training);
  } catch (const Error& error) {
    stopped = error.kind() == ErrorKind::Stopped;
  }
  // With more ranks than batches left nobody may come to a second one.
  if (world().size() < 3) {
    ASSERT_TRUE(stopped);
    EXPECT_FALSE(std::filesystem::exists(folder / "metrics.json"));
    EXPECT_FALSE(std::filesystem::is_empty(folder / "parts"));
  }
  world().barrier();
  context.stop_requested = [] { return false; };

  run_evaluate(context, small.training);

  const lvis::Dataset dataset = lvis::read_dataset(small.config.data.val_json);
  const Path twin = folder / cat("twin-", world().rank(), ".json");
  write_file_atomic(
      twin,
      cat(kBeforeResults, results_text(detect_plainly(context, "small", dataset), lvis::IouType::Mask), kAfterResults));
  EXPECT_TRUE(read_file(twin) == read_file(folder / "results.segm.json"));
}

TEST(EvaluateStage, MakesADamagedRecordAgain) {
  const SmallWorld small;
  const RunContext context = small.run("run");
  run_train(context, small.training);
  run_evaluate(context, small.training);
  if (world().is_root()) write_file_atomic(context.dir.record("evaluate.small"), "{");
  world().barrier();

  run_evaluate(context, small.training);

  EXPECT_EQ(read_record(context.dir, "evaluate.small")->items, 11);
}

TEST(EvaluateStage, CountsImagesThatCannotBeRead) {
  const SmallWorld small;
  const RunContext context = small.run("run");
  run_train(context, small.training);
  if (world().is_root()) write_file_atomic(small.config.data.val_images / "val/503.png", "no picture");
  world().barrier();

  run_evaluate(context, small.training);

  const auto record = read_record(context.dir, "evaluate.small");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->rejected.at("unreadable_image"), 1);
}

TEST(EvaluateStage, NeedsAModel) {
  const SmallWorld small;
  const RunContext context = small.run("run");

  EXPECT_EQ(kind_of_error([&] { run_evaluate(context, small.training); }), ErrorKind::Data);
}

}  // namespace divergen::stages

DIVERGEN_MPI_MAIN()
