// The runs of a scaling study, one after the other.

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <set>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/launch.hpp"
#include "driver/scaling_study.hpp"
#include "stages/plan/plan_input.hpp"

namespace divergen::driver {
namespace {

using nlohmann::json;

Launch launch_of(const config::RunConfig& config, const std::string& stage, const std::string& training,
                 std::int64_t ranks, const Path& config_file, const Path& run, const Path& console) {
  Launch launch;
  launch.ranks = static_cast<int>(ranks);
  launch.threads_per_rank = static_cast<int>(config.run.threads_per_rank);
  launch.worker_args = {stage, config_file.string(), "--set", cat("run.dir=", run.string())};
  if (!training.empty()) launch.worker_args.insert(launch.worker_args.end(), {"--training", training});
  launch.console = console;
  return launch;
}

std::string last_lines(const Path& file, std::size_t count) {
  std::error_code absent;
  if (!std::filesystem::exists(file, absent)) return "";
  std::vector<std::string> lines = split(read_file(file), '\n');
  std::string out;
  for (std::size_t i = lines.size() > count ? lines.size() - count : 0; i < lines.size(); ++i)
    if (!lines[i].empty()) out += "  " + lines[i] + "\n";
  return out;
}

// ---- what a point reads --------------------------------------------------------------------------------------------

/// Whether each generator has prompts for it.
bool has_prompts(const stages::PlanCategory& category, const std::vector<stages::PlanGenerator>& generators) {
  return std::all_of(generators.begin(), generators.end(), [&](const stages::PlanGenerator& generator) {
    return std::any_of(generator.sources.begin(), generator.sources.end(),
                       [&](const std::string& source) { return category.prompts.contains(source); });
  });
}

/// Categories and their quotas for exactly so many pictures, the same number of each generator, spread evenly.
void write_plan_inputs(const config::RunConfig& from, const config::RunConfig& point, std::int64_t items) {
  const stages::PlanInput input = stages::plan_input(from);
  std::vector<std::int32_t> ids;
  for (const stages::PlanCategory& category : input.categories)
    if (has_prompts(category, input.generators)) ids.push_back(category.id);
  if (ids.empty())
    fail(ErrorKind::Config, {"no category has prompts for every generator", from.data.categories.string(), "",
                             "study one generator at a time, or add prompts"});
  const std::int64_t each = items / static_cast<std::int64_t>(input.generators.size());
  const std::int64_t chosen = std::min(each, static_cast<std::int64_t>(ids.size()));
  std::set<std::int32_t> wanted;
  json quota = json::object();
  for (std::int64_t k = 0; k < chosen; ++k) {
    const std::int32_t id = ids[static_cast<std::size_t>(k * static_cast<std::int64_t>(ids.size()) / chosen)];
    wanted.insert(id);
    quota[std::to_string(id)] = each / chosen + (k < each % chosen ? 1 : 0);
  }
  json categories = json::array();
  for (const json& category : json::parse(read_file(from.data.categories)))
    if (wanted.contains(category.at("id").get<std::int32_t>())) categories.push_back(category);
  write_file_atomic(point.data.categories, categories.dump(1) + "\n");
  write_file_atomic(point.plan.quota.file, quota.dump(1) + "\n");
}

/// `items` of the validation images: spread evenly where there are more, over and over under new ids where there are
/// fewer.
void write_images(const Path& from, const Path& to, std::int64_t items) {
  const json all = json::parse(read_file(from));
  const json& images = all.at("images");
  const auto count = static_cast<std::int64_t>(images.size());
  DIVERGEN_CHECK(count > 0, from.string());
  std::map<std::int64_t, std::vector<const json*>> annotations;
  std::int64_t largest = 0;
  for (const json& annotation : all.at("annotations"))
    annotations[annotation.at("image_id").get<std::int64_t>()].push_back(&annotation);
  for (const json& image : images) largest = std::max(largest, image.at("id").get<std::int64_t>());
  json out = all;
  out["images"] = json::array();
  out["annotations"] = json::array();
  std::int64_t next = 1;
  for (std::int64_t i = 0; i < items; ++i) {
    const std::int64_t round = i / count;
    json image = images[static_cast<std::size_t>(items < count ? i * count / items : i % count)];
    const std::int64_t id = image.at("id");
    image["id"] = id + round * (largest + 1);
    for (const json* annotation : annotations[id]) {
      json copy = *annotation;
      copy["image_id"] = image["id"];
      copy["id"] = next++;
      out["annotations"].push_back(std::move(copy));
    }
    out["images"].push_back(std::move(image));
  }
  write_file_atomic(to, out.dump());
}

/// A stage of the inputs. Throws Error when it fails.
void make_input(const config::RunConfig& config, const std::string& stage, std::int64_t ranks, const Path& file,
                const Path& inputs) {
  const Path console = inputs / cat(stage, ".console.log");
  log::info("preparing: ", stage, " of what the stage reads");
  const int code = run(launch_of(config, stage, "", ranks, file, inputs, console));
  if (code == exit_code(ErrorKind::Stopped))
    fail(ErrorKind::Stopped, {"stopped as asked", "the scaling study's inputs", "", "give the same command again"});
  if (code != 0)
    fail(code == 64 ? ErrorKind::Config : ErrorKind::Data,
         {cat("the stage '", stage, "' before the measured one failed"), console.string(),
          cat("exit code ", code, "\n", last_lines(console, 8)), "see to that, then give the same command again"});
}

/// Another job of the study may be making the same inputs. Null when they are done.
std::unique_ptr<RunLock> lock_or_wait(const Path& folder, const Path& done) {
  for (bool told = false; !std::filesystem::exists(done);) {
    try {
      return std::make_unique<RunLock>(folder);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      if (!std::exchange(told, true)) log::info("waiting for another job that prepares ", folder.string());
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }
  return nullptr;
}

void check_library(const ScalingPlan& plan, const config::TrainSettings& training) {
  const stages::RunDirectory dir(plan.config.run.dir);
  if (!training.use_pool || std::filesystem::exists(dir.library() / "index.h5")) return;
  fail(ErrorKind::Usage, {"the training pastes instances, and there is no library of them yet", dir.library().string(),
                          "", "run the stages up to pool first (divergen run), or choose a training without one"});
}

void make_inputs(const ScalingPlan& plan, const config::RunConfig& config, std::int64_t ranks, const Path& file) {
  const Path inputs = config.run.dir, done = inputs / "inputs.done";
  make_folder(inputs);
  const auto lock = lock_or_wait(inputs, done);
  if (std::filesystem::exists(done)) return;
  if (plan.stage == "generate" || plan.stage == "annotate") {
    write_plan_inputs(plan.config, config, plan.items_at(ranks));
    make_input(config, "plan", 1, file, inputs);
  }
  if (plan.stage == "annotate") make_input(config, "generate", ranks, file, inputs);
  if (plan.stage == "evaluate") {
    if (!std::filesystem::exists(config.evaluate.weights))
      fail(ErrorKind::Usage, {"there is no trained detector to evaluate", config.evaluate.weights.string(), "",
                              "train it first (divergen run), or name one: --set evaluate.weights=FILE"});
    write_images(plan.config.data.val_json, config.data.val_json, plan.items_at(ranks));
  }
  if (plan.stage == "train") check_library(plan, training_of(plan.config, plan.training));
  write_file_atomic(done, "");
}

/// The run directory `run` sees what was made before, without a copy of it.
void link_inputs(const ScalingPlan& plan, const Path& inputs, const Path& run) {
  make_folder(run / "stages");
  const auto link = [&](const Path& from, const char* name) {
    if (std::filesystem::exists(from / name))
      std::filesystem::create_symlink(std::filesystem::absolute(from) / name, run / name);
  };
  const auto copy_record = [&](const Path& from, const std::string& stage) {
    const Path record = stages::RunDirectory(from).record(stage);
    if (std::filesystem::exists(record)) write_file_atomic(stages::RunDirectory(run).record(stage), read_file(record));
  };
  if (plan.stage == "generate" || plan.stage == "annotate") {
    link(inputs, "plan.h5");
    copy_record(inputs, "plan");
  }
  if (plan.stage == "annotate") {
    link(inputs, "generate");
    copy_record(inputs, "generate");
  }
  if (plan.stage == "train") {
    link(plan.config.run.dir, "pool");
    copy_record(plan.config.run.dir, "pool");
  }
}

// ---- one run -------------------------------------------------------------------------------------------------------

/// Hash of what the stage made, where that must not depend on the ranks.
std::string results_hash(const ScalingPlan& plan, const Path& run) {
  std::vector<Path> files;
  std::error_code absent;
  if (plan.stage == "generate" || plan.stage == "annotate")
    for (const auto& entry : std::filesystem::directory_iterator(run / plan.stage, absent))
      if (entry.path().extension() == ".h5") files.push_back(entry.path());
  if (plan.stage == "evaluate")
    for (const char* name : {"results.bbox.json", "results.segm.json"})
      files.push_back(stages::RunDirectory(run).evaluation(plan.training) / name);
  std::sort(files.begin(), files.end());
  std::string text;
  for (const Path& file : files) text += cat(file.filename().string(), ' ', to_hex(hash_file(file)), '\n');
  return text.empty() ? "" : to_hex(hash128(text));
}

std::vector<std::pair<std::int64_t, double>> losses_of(const Path& log, std::int64_t batch) {
  std::vector<std::pair<std::int64_t, double>> out;
  if (!std::filesystem::exists(log)) return out;
  for (const std::string& line : split(read_file(log), '\n')) {
    const json entry = json::parse(line, nullptr, false);
    if (entry.is_object() && entry.contains("iteration") && entry.contains("loss_total"))
      out.emplace_back(entry["iteration"].get<std::int64_t>() * batch, entry["loss_total"].get<double>());
  }
  return out;
}

stages::ScalingRun facts_of(const ScalingPlan& plan, const config::RunConfig& config, std::int64_t ranks, int repeat,
                            const Path& run, double begun, double ended) {
  const auto record = stages::read_record(stages::RunDirectory(run), plan.label());
  if (!record || record->ranks.size() != static_cast<std::size_t>(ranks))
    fail(ErrorKind::Bug, {"a run has not left the record that it should", run.string(),
                          cat("its ranks: ", record ? record->ranks.size() : 0, " of ", ranks),
                          "mpirun and MPI of the programs may not belong together: divergen doctor"});
  stages::ScalingRun out;
  out.ranks = ranks;
  out.items = plan.items_at(ranks);
  out.repeat = repeat;
  out.begun = begun;
  out.ended = ended;
  out.shares = stages::time_shares(*record, begun, ended);
  std::set<std::string> hosts;
  for (const stages::RankShare& r : record->ranks) hosts.insert(r.host);
  out.nodes = static_cast<std::int64_t>(hosts.size());
  const auto figure = [&](const char* name) {
    const auto found = record->figures.find(name);
    return found == record->figures.end() ? 0.0 : found->second;
  };
  out.work_seconds = std::max(0.0, figure("phase_last") - figure("phase_first"));
  out.tail_seconds = figure("tail_seconds");
  out.comm_overlap = figure("comm_overlap");
  out.results = results_hash(plan, run);
  if (plan.stage == "train") {
    const auto& training = training_of(config, plan.training);
    out.losses = losses_of(stages::RunDirectory(run).training(plan.training) / "log.jsonl", training.batch);
  }
  return out;
}

/// Records and logs stay; pictures, masks, checkpoints do not.
void sweep_products(const Path& run) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(run, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name == "stages" || name == "logs" || name == "config.toml") continue;
    std::filesystem::remove_all(entry.path(), ignored);
  }
}

void note_failure(const ScalingPlan& plan, std::int64_t ranks, int repeat, int code, double begun, double ended,
                  const Path& folder) {
  stages::ScalingRun failed;
  failed.ranks = ranks;
  failed.items = plan.items_at(ranks);
  failed.repeat = repeat;
  failed.begun = begun;
  failed.ended = ended;
  failed.exit_code = code;
  const Path kept = folder.string() + cat(".failed-", static_cast<long long>(begun));
  std::error_code ignored;
  std::filesystem::rename(folder, kept, ignored);
  append_line(plan.out / "failures.jsonl", stages::to_text(failed));
  log::error("the run failed with exit code ", code, ":\n", last_lines(kept / "console.log", 6), "  more in ",
             (kept / "console.log").string());
}

/// Exit code of the run.
int run_once(const ScalingPlan& plan, const config::RunConfig& config, std::int64_t ranks, int repeat,
             const Path& config_file) {
  const Path folder = point_folder(plan, ranks) / cat("r", repeat), run = folder / "run";
  std::filesystem::remove_all(folder);  // of an earlier start that was interrupted
  make_folder(run);
  link_inputs(plan, config.run.dir, run);
  const double begun = epoch_seconds();
  const int code =
      driver::run(launch_of(config, plan.stage, plan.training, ranks, config_file, run, folder / "console.log"));
  const double ended = epoch_seconds();
  if (code == exit_code(ErrorKind::Stopped)) return code;
  if (code != 0) {
    note_failure(plan, ranks, repeat, code, begun, ended, folder);
    return code;
  }
  const stages::ScalingRun facts = facts_of(plan, config, ranks, repeat, run, begun, ended);
  if (!plan.keep) sweep_products(run);
  write_file_atomic(folder / "run.json", stages::to_text(facts) + "\n");
  log::info(ranks, ranks == 1 ? " rank, " : " ranks, ",
            repeat == 0 ? "warm-up" : cat("run ", repeat, " of ", plan.repeats), ": ", human_seconds(facts.seconds()),
            ", ", fixed(static_cast<double>(facts.items) / facts.seconds(), 2), " ", unit_of(plan.stage), "/s");
  return 0;
}

}  // namespace

int run_point(const ScalingPlan& plan, std::int64_t ranks) {
  const std::vector<int> open = open_repeats(plan, ranks);
  if (open.empty()) return 0;
  const config::RunConfig config = point_config(plan, ranks);
  const Path folder = point_folder(plan, ranks), config_file = folder / "config.toml";
  make_folder(folder);
  const RunLock lock(folder);
  write_file_atomic(config_file, config::to_toml(config.table, true));
  make_inputs(plan, config, ranks, config_file);
  for (const int repeat : open) {
    const int code = run_once(plan, config, ranks, repeat, config_file);
    if (code == exit_code(ErrorKind::Stopped)) return code;
    // What the command line or the configuration has wrong is wrong in every run.
    if (code == exit_code(ErrorKind::Config)) return code;
  }
  return 0;
}

}  // namespace divergen::driver
