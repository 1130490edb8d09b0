#include "stages/train/train.hpp"

#include <ATen/Parallel.h>

#include <cmath>
#include <set>

#include <nlohmann/json.hpp>

#include "base/allocator.hpp"
#include "base/log.hpp"
#include "base/rank_record.hpp"
#include "base/time_use.hpp"
#include "nn/device.hpp"
#include "nn/tensor_io.hpp"
#include "stages/common/rank_phases.hpp"
#include "stages/common/shared_dataset.hpp"
#include "stages/train/detector_task.hpp"
#include "stages/train/engine.hpp"
#include "stages/train/fingerprint.hpp"
#include "stages/train/pictures.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr std::int64_t kSamplePictures = 12;

/// What samples are made of: the data set once a node, the rest on every rank.
struct TrainingData {
  lvis::Dataset dataset;
  ClassMap classes;
  std::shared_ptr<const InstancePool> pool;
  std::unique_ptr<SampleMaker> maker;
};

void read_data(const RunContext& context, const config::TrainSettings& training,
               const std::shared_ptr<const store::Library>& library, TrainingData& data) {
  const config::RunConfig& config = context.config;
  AreaStatistics areas;
  if (library) {
    data.pool = std::make_shared<const InstancePool>(library, training, data.classes);
    if (!config.data.area_stats.empty()) areas = read_area_statistics(config.data.area_stats);
    if (data.pool->size() == 0)
      fail(ErrorKind::Data, {"the instance library holds nothing that this training may paste",
                             cat("training '", training.name, "', ", context.dir.library().string()),
                             cat("of its ", library->size(), " instances none is allowed"),
                             "check pool_generators and pool_extra, or set use_pool = false"});
  }
  data.maker = std::make_unique<SampleMaker>(data.dataset, config.data.train_images, data.classes, std::move(areas),
                                             config.augment, data.pool, training.seed, self_copy_of(training),
                                             training.mask_format == "polygon");
}

void write_models(const Path& folder, const TrainingEngine& engine, const TrainingOptions& options,
                  const ClassMap& classes) {
  const bool averaged = options.settings.ema > 0;
  std::map<std::string, std::string> facts{{"format", "pt"},
                                           {"model", "CenterNet2"},
                                           {"training", options.settings.name},
                                           {"iterations", std::to_string(options.settings.iterations)},
                                           {"classes", std::to_string(classes.category_of.size())},
                                           {"evaluated_classes", std::to_string(classes.evaluated)},
                                           {"fingerprint", options.fingerprint},
                                           {"config_hash", options.config_hash}};
  if (averaged) {
    facts["weights"] = "last";
    nn::save_tensors(folder / "last.safetensors", engine.raw(), facts);
  }
  facts["weights"] = averaged ? "averaged" : "last";
  nn::save_tensors(folder / "model.safetensors", engine.result(), facts);
}

/// Collective; written by rank 0.
void write_training_record(const RunContext& context, const config::TrainSettings& training,
                           const std::string& fingerprint, const TrainingResult& result, const SampleMaker& maker) {
  comm::World& world = context.world;
  RankPhases phases{time_use().ready(), result.begun, result.ended};
  phases.steady = std::max(0.0, result.busy_seconds - result.commit_seconds - result.comm_seconds);
  phases.commit = result.commit_seconds;
  phases.wait = result.waited_seconds;
  phases.comm = result.comm_seconds;
  const json mine{{"rank", world.rank()},
                  {"host", world.host()},
                  {"items", result.steps * training.batch / world.size()},
                  {"busy", result.busy_seconds},
                  {"start", result.begun},
                  {"end", result.ended},
                  {"phases", to_text(phases)},
                  {"bad_images", maker.unreadable_images()},
                  {"bad_instances", maker.unreadable_instances()}};
  const auto shares = world.gather_texts(mine.dump());
  world.together([&] {
    if (!world.is_root()) return;
    StageRecord record;
    record.stage = "train." + training.name;
    record.fingerprint = fingerprint;
    record.seconds = result.seconds;
    record.items = training.iterations * training.batch;
    std::vector<RankPhases> all_phases;
    std::set<std::size_t> images, instances;  // several ranks may have met the same one
    for (const std::string& text : shares) {
      const json share = json::parse(text);
      record.ranks.push_back({share.at("rank").get<int>(), share.at("host").get<std::string>(),
                              share.at("items").get<std::int64_t>(), share.at("busy").get<double>(),
                              share.at("start").get<double>(), share.at("end").get<double>()});
      all_phases.push_back(rank_phases_of(share.at("phases").get<std::string>()));
      images.merge(share.at("bad_images").get<std::set<std::size_t>>());
      instances.merge(share.at("bad_instances").get<std::set<std::size_t>>());
    }
    if (!images.empty()) record.rejected["unreadable_image"] = static_cast<std::int64_t>(images.size());
    if (!instances.empty()) record.rejected["unreadable_instance"] = static_cast<std::int64_t>(instances.size());
    record.figures = {{"iterations", static_cast<double>(result.iterations)},
                      {"images_per_second", result.images_per_second},
                      {"data_wait", result.data_wait},
                      {"comm_overlap", result.comm_overlap},
                      {"rollbacks", static_cast<double>(result.rollbacks)}};
    add_phases(record.figures, all_phases);
    if (std::isfinite(result.loss_total)) record.figures["loss"] = result.loss_total;
    write_record(context.dir, record);
  });
}

}  // namespace

Path trained_model(const RunDirectory& dir, const std::string& name, bool averaged) {
  return dir.training(name) / (averaged ? "model.safetensors" : "last.safetensors");
}

void run_train(const RunContext& context, const config::TrainSettings& training) {
  comm::World& world = context.world;
  const PatienceScope patience(training.init_timeout);
  keep_freed_memory();
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));

  std::shared_ptr<const store::Library> library;
  world.together([&] {
    if (training.use_pool) library = std::make_shared<const store::Library>(context.dir.library());
  });
  const std::string fingerprint = training_fingerprint(context, training, library ? library->hash() : "no pool");
  if (is_complete(context, "train." + training.name, fingerprint, trained_model(context.dir, training.name, true)))
    return;

  TrainingData data;
  const Path folder = context.dir.training(training.name);
  data.dataset = read_shared_dataset(world, context.config.data.train_json);
  world.together([&] {
    data.classes = read_class_map(context.config.data.categories);
    read_data(context, training, library, data);
    if (!world.is_root()) return;
    make_folder(folder);
    log::info("training '", training.name, "': ", data.dataset.images.size(), " images, ",
              data.classes.category_of.size(), " classes (", data.classes.evaluated, " evaluated), ",
              data.pool ? data.pool->size() : 0, " instances to paste, ", world.size(), " ranks");
    write_sample_pictures(*data.maker, data.classes, folder / "samples", folder / "tensorboard", kSamplePictures);
  });

  std::unique_ptr<DetectorTask> task;
  world.together([&] {
    task = std::make_unique<DetectorTask>(context.config, training, data.classes.image_counts, *data.maker, world,
                                          nn::device_of(world));
  });
  const TrainingOptions options{training,
                                folder,
                                fingerprint,
                                context.config.hash(),
                                context.report_progress,
                                context.dir.root() / "logs"};
  TrainingEngine engine(*task, world, options);
  const TrainingResult result = engine.run(context.stop_requested);
  world.together([&] {
    if (world.is_root()) write_models(folder, engine, options, data.classes);
  });
  write_training_record(context, training, fingerprint, result, *data.maker);
}

}  // namespace divergen::stages
