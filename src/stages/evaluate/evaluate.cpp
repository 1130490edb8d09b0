#include "stages/evaluate/evaluate.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <set>

#include <nlohmann/json.hpp>

#include "base/allocator.hpp"
#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "nn/device.hpp"
#include "stages/common/shared_dataset.hpp"
#include "stages/evaluate/batches.hpp"
#include "stages/evaluate/conclude.hpp"
#include "stages/evaluate/parts.hpp"
#include "stages/evaluate/pictures.hpp"
#include "stages/evaluate/results.hpp"
#include "stages/evaluate/runner.hpp"
#include "stages/train/fingerprint.hpp"
#include "stages/train/tensorboard.hpp"
#include "stages/train/train.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr std::size_t kPictures = 10;
constexpr double kPictureScore = 0.3;  // below it most detections of a federated classifier are noise to the eye

struct Evaluating {
  const RunContext& context;
  const config::TrainSettings& training;
  std::string stage;  // "evaluate.<name>"
  Path folder, parts, model;
  lvis::Dataset dataset;
  ClassMap classes;
  std::string fingerprint;
};

/// Collective. Also finds out, before work starts, that the model is not there.
std::string fingerprint_of(const Evaluating& e) {
  const config::RunConfig& config = e.context.config;
  const config::DetectorSettings& d = config.detector;
  e.context.world.together([&] {
    if (e.context.world.is_root() && !std::filesystem::exists(e.model))
      fail(ErrorKind::Data, {"there is nothing to evaluate", e.model.string(),
                             cat("training '", e.training.name, "' has not been completed"),
                             e.training.ema > 0 || config.evaluate.use_ema ? "train it first"
                                                                           : "train it first, or set use_ema = true"});
  });
  const json all{
      {"model", shared_file_hash(e.context.world, e.model)},
      {"val_json", shared_file_hash(e.context.world, config.data.val_json)},
      {"categories", shared_file_hash(e.context.world, config.data.categories)},
      {"size", {config.evaluate.short_side, config.evaluate.long_side}},
      {"batch", config.evaluate.batch},
      {"backbone", d.backbone},
      {"test", {d.pre_nms_test, d.post_nms_test, d.score_threshold, d.nms_threshold, d.detections_per_image}}};
  return to_hex(hash128(all.dump()));
}

/// Rank 0: ids of the images that whole parts of this evaluation cover; other parts are removed.
std::vector<std::int64_t> images_done(const Evaluating& e) {
  make_folder(e.parts);
  sweep_parts(e.parts);
  sweep_parts(e.folder);
  std::vector<std::int64_t> out;
  for (const Path& file : part_files(e.parts)) {
    try {
      const DetectionPart part = read_part(file, e.dataset, e.fingerprint);
      out.insert(out.end(), part.images.begin(), part.images.end());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      log::warn(e.stage, ": ", file.string(), " is removed, its images are detected again: ", error.text().why);
      std::filesystem::remove(file);
    }
  }
  return out;
}

/// Collective.
std::vector<std::vector<std::size_t>> batches_left(const Evaluating& e) {
  std::string text;
  e.context.world.together([&] {
    if (e.context.world.is_root()) text = json(images_done(e)).dump();
  });
  const auto ids = json::parse(e.context.world.broadcast_text(std::move(text))).get<std::set<std::int64_t>>();
  auto batches = make_batches(e.dataset, e.context.config.evaluate);
  std::erase_if(batches, [&](const auto& batch) { return ids.contains(e.dataset.images[batch.front()].id); });
  if (e.context.world.is_root())
    log::info(e.stage, ": ", e.dataset.images.size(), " images, ", ids.size(), " of them done before; ", batches.size(),
              " batches left for ", e.context.world.size(), " ranks");
  return batches;
}

/// Rank 0: metrics, pictures, figures.
void publish(const Evaluating& e, const Conclusion& found, StageRecord& record) {
  const std::int64_t step = e.training.iterations;
  std::error_code ignored;
  std::filesystem::remove_all(e.folder / "tensorboard", ignored);  // of an evaluation before this one
  EventFile events(e.folder / "tensorboard", step);
  const auto chosen = choose_pictures(e.dataset, kPictures);
  std::vector<std::int64_t> ids;
  for (const std::size_t i : chosen) ids.push_back(e.dataset.images[i].id);
  write_evaluation_pictures(e.dataset, e.context.config.data.val_images, e.classes,
                            detections_of(e.parts, e.dataset, e.fingerprint, ids), chosen, kPictureScore,
                            e.folder / "pictures", events, step);
  const lvis::Evaluation &box = found.box, &mask = found.mask;
  write_metrics(e.folder / "metrics.json", box, mask);
  record.rejected = found.rejected;
  record.figures["detections"] = static_cast<double>(box.detections);
  std::vector<std::pair<std::string, double>> scalars;
  for (const char* name : {"AP", "APr", "APc", "APf"}) {
    scalars.emplace_back(cat("bbox/", name), record.figures[cat("bbox_", name)] = box.summary[name]);
    scalars.emplace_back(cat("segm/", name), record.figures[cat("segm_", name)] = mask.summary[name]);
  }
  events.add(step, scalars);
  log::info(e.stage, ": box AP ", fixed(100 * box.summary["AP"], 2), " (rare ", fixed(100 * box.summary["APr"], 2),
            ", common ", fixed(100 * box.summary["APc"], 2), ", frequent ", fixed(100 * box.summary["APf"], 2),
            "), mask AP ", fixed(100 * mask.summary["AP"], 2), " (rare ", fixed(100 * mask.summary["APr"], 2), ")");
}

/// Collective.
void finish(const Evaluating& e, const RunnerShare& mine, double start) {
  comm::World& world = e.context.world;
  const RankShare& share = mine.share;
  const json told{
      {"rank", share.rank},   {"host", share.host}, {"items", share.items},          {"busy", share.busy_seconds},
      {"start", share.start}, {"end", share.end},   {"phases", to_text(mine.phases)}};
  const auto shares = world.gather_texts(told.dump());
  const Conclusion found = conclude(world, {e.dataset, e.parts, e.folder, e.fingerprint});
  world.together([&] {
    if (!world.is_root()) return;
    StageRecord record;
    record.stage = e.stage;
    record.fingerprint = e.fingerprint;
    record.items = static_cast<std::int64_t>(e.dataset.images.size());
    double items = 0, end = 0;
    std::vector<RankPhases> phases;
    for (const std::string& text : shares) {
      const json s = json::parse(text);
      record.ranks.push_back({s.at("rank").get<int>(), s.at("host").get<std::string>(),
                              s.at("items").get<std::int64_t>(), s.at("busy").get<double>(),
                              s.at("start").get<double>(), s.at("end").get<double>()});
      phases.push_back(rank_phases_of(s.at("phases").get<std::string>()));
      items += s.at("items").get<double>();
      end = std::max(end, s.at("end").get<double>());
    }
    add_phases(record.figures, phases);
    record.figures["images_per_second"] = items / std::max(end - share.start, 1e-9);
    publish(e, found, record);
    record.seconds = epoch_seconds() - start;
    write_record(e.context.dir, record);
    std::error_code ignored;
    std::filesystem::remove_all(e.parts, ignored);  // all of it stands in the results files
  });
}

}  // namespace

void run_evaluate(const RunContext& context, const config::TrainSettings& training) {
  comm::World& world = context.world;
  const double start = epoch_seconds();
  keep_freed_memory();
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  const Path folder = context.dir.evaluation(training.name);
  // Without averaging there is one set of weights, whatever is asked for.
  const bool averaged = context.config.evaluate.use_ema || training.ema == 0;
  const Path& given = context.config.evaluate.weights;
  Evaluating e{context,
               training,
               "evaluate." + training.name,
               folder,
               folder / "parts",
               given.empty() ? trained_model(context.dir, training.name, averaged) : given,
               {},
               {},
               ""};
  e.fingerprint = fingerprint_of(e);
  if (is_complete(context, e.stage, e.fingerprint, folder / "metrics.json")) return;
  world.together([&] { e.classes = read_class_map(context.config.data.categories); });
  e.dataset = read_shared_dataset(world, context.config.data.val_json);
  RunnerInput input{e.dataset, e.classes, batches_left(e), e.parts, e.fingerprint, e.stage};
  RunnerShare mine{{world.rank(), world.host()}, {}};
  mine.share.start = mine.share.end = epoch_seconds();
  if (!input.batches.empty()) {
    const at::Device device = nn::device_of(world);
    std::unique_ptr<models::CenterNet2> detector;
    world.together([&] {
      detector = load_evaluated_detector(context.config.detector, e.classes, e.model);
      detector->to(at::TensorOptions().dtype(at::kFloat).device(device));
    });
    mine = run_detector(context, *detector, device, input);
  }
  finish(e, mine, start);
}

}  // namespace divergen::stages
