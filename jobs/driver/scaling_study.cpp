#include "driver/scaling_study.hpp"

#include <sys/statfs.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <set>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/machine.hpp"
#include "base/text.hpp"
#include "driver/process.hpp"
#include "lvis/dataset.hpp"
#include "stages/plan/plan_input.hpp"

namespace divergen::driver {
namespace {

using nlohmann::json;

Path study_file(const Path& out) { return out / "study.json"; }
Path config_file(const Path& out) { return out / "config.effective.toml"; }

/// The table at "section.key", with the sections that are missing.
void set(config::Table& table, const std::string& section, const std::string& key, config::Value value) {
  config::Value& holder = table[section];
  if (!std::holds_alternative<config::Table>(holder.data)) holder = {config::Table{}, "scaling study"};
  std::get<config::Table>(holder.data)[key] = std::move(value);
}

config::Value made(std::int64_t value) { return {value, "scaling study"}; }
config::Value made(const Path& value) { return {value.string(), "scaling study"}; }

/// Only this training, with so many samples in batches of that size.
void set_training(config::RunConfig& config, const std::string& name, std::int64_t iterations, std::int64_t batch) {
  for (const config::Value& entry : std::get<config::Array>(config.table.at("trainings").data)) {
    config::Table one = std::get<config::Table>(entry.data);
    if (std::get<std::string>(one.at("name").data) != name) continue;
    one["iterations"] = made(iterations);
    one["batch"] = made(batch);
    config.table["trainings"] = {config::Array{{one, entry.origin}}, "scaling study"};
    return;
  }
}

void shape_training(const ScalingPlan& plan, std::int64_t ranks, config::RunConfig& config) {
  const config::TrainSettings& training = training_of(plan.config, plan.training);
  const std::int64_t batch = plan.is_weak() ? training.batch * ranks : training.batch;
  if (batch % ranks != 0)
    fail(ErrorKind::Usage,
         {"the batch cannot be shared evenly by the ranks", cat(ranks, " ranks"), cat("train.batch is ", batch),
          "strong scaling keeps the batch: choose numbers of ranks that divide it, or --set "
          "train.batch=..."});
  const std::int64_t items = plan.items_at(ranks);
  if (items % batch != 0)
    fail(ErrorKind::Usage,
         {"the samples are no whole number of steps", cat(items, " samples"), cat("a step takes ", batch),
          cat("use --items ", (items / batch + 1) * batch / (plan.is_weak() ? ranks : 1))});
  set_training(config, plan.training, items / batch, batch);
}

std::string memory_text() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  std::uint64_t kib = 0;
  return file >> name >> kib ? human_bytes(kib * 1024) : "unknown";
}

std::string gpu_model() { return first_line_of({"nvidia-smi", "--query-gpu=name", "--format=csv,noheader"}); }

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

/// "Intel(R) Xeon(R) Processor @ 2.10GHz" -> "xeon".
std::string short_hardware() {
  if (const std::string gpu = gpu_model(); !gpu.empty()) return gpu;
  std::string model = processor_name();
  for (const char* noise : {"(R)", "(TM)", "Intel", "AMD", "Processor", "CPU"})
    for (std::size_t at = model.find(noise); at != std::string::npos; at = model.find(noise))
      model.erase(at, std::string(noise).size());
  model = model.substr(0, model.find('@'));
  return cat(model, " ", std::thread::hardware_concurrency(), " cores");
}

/// What was measured on, and with what, as reference/reliability.md §7 wants it beside the results.
json machine_facts(const ScalingPlan& plan) {
  json facts = json::object();
  facts["Software"] = cat("divergen ", DIVERGEN_VERSION, ", compiled with g++ ", __VERSION__);
  facts["MPI"] = first_line_of({"mpirun", "--version"});
  const bool in_slurm = !environment("SLURM_JOB_ID").empty();
  facts["Launcher"] = in_slurm ? cat("srun, ", first_line_of({"srun", "--version"})) : "mpirun on one machine";
  if (in_slurm) {
    facts["Partition"] = environment("SLURM_JOB_PARTITION");
    facts["Nodes of the first job"] = environment("SLURM_JOB_NODELIST");
  }
  facts["Kind of node"] = cat(processor_name(), ", ", std::thread::hardware_concurrency(), " cores, ", memory_text());
  if (const std::string gpu = gpu_model(); !gpu.empty()) facts["GPU"] = gpu;
  utsname system{};
  if (::uname(&system) == 0) facts["System"] = cat(system.sysname, " ", system.release);
  facts["File system"] = first_line_of({"stat", "-f", "-c", "%T", plan.out.string()});
  if (const std::string stripes = first_line_of({"lfs", "getstripe", "-d", plan.out.string()}); !stripes.empty())
    facts["Stripes"] = stripes;
  facts["Threads of a rank"] = std::to_string(plan.config.run.threads_per_rank);
  return facts;
}

}  // namespace

std::string unit_of(const std::string& stage) {
  if (stage == "train") return "samples";
  return stage == "evaluate" ? "images" : "pictures";
}

const config::TrainSettings& training_of(const config::RunConfig& config, const std::string& name) {
  for (const auto& training : config.trainings)
    if (training.name == name) return training;
  std::string names;
  for (const auto& training : config.trainings) names += (names.empty() ? "" : ", ") + training.name;
  fail(ErrorKind::Usage, {"there is no such training", name.empty() ? "--training" : name,
                          name.empty() ? "the configuration has several" : "the configuration does not name it",
                          names.empty() ? "add one to [[trainings]]" : cat("use one of: ", names)});
}

std::int64_t configured_items(const config::RunConfig& config, const std::string& stage, const std::string& training) {
  if (stage == "train") return training_of(config, training).iterations * training_of(config, training).batch;
  if (stage == "evaluate") return static_cast<std::int64_t>(lvis::read_dataset(config.data.val_json).images.size());
  return static_cast<std::int64_t>(stages::make_plan(stages::plan_input(config)).size());
}

config::RunConfig point_config(const ScalingPlan& plan, std::int64_t ranks) {
  config::RunConfig config = plan.config;
  const std::int64_t items = plan.items_at(ranks);
  const Path inputs = plan.out / "inputs" / std::to_string(items);
  set(config.table, "run", "dir", made(inputs));
  if (plan.stage == "train") shape_training(plan, ranks, config);
  if (plan.stage == "generate" || plan.stage == "annotate") {
    set(config.table, "data", "categories", made(inputs / "categories.json"));
    for (auto& [name, generator] : std::get<config::Table>(config.table.at("generators").data))
      std::get<config::Table>(generator.data).erase("quota");  // its own would go over the study's
    set(config.table, "plan", "quota", {config::Table{{"file", made(inputs / "quota.json")}}, "scaling study"});
  }
  if (plan.stage == "evaluate") {
    const config::TrainSettings& training = training_of(plan.config, plan.training);
    Path weights = plan.config.evaluate.weights;
    if (weights.empty()) {
      const bool averaged = plan.config.evaluate.use_ema || training.ema == 0;
      weights = stages::RunDirectory(plan.config.run.dir).training(training.name) /
                (averaged ? "model.safetensors" : "last.safetensors");
    }
    set(config.table, "evaluate", "weights", made(std::filesystem::absolute(weights)));
    set(config.table, "data", "val_json", made(inputs / "val.json"));
    set_training(config, plan.training, training.iterations, training.batch);
  }
  return config::run_config_of(config.table);
}

void freeze_study(const ScalingPlan& plan) {
  make_folder(plan.out);
  json study{{"schema", 1},
             {"stage", plan.stage},
             {"training", plan.training},
             {"mode", plan.mode},
             {"items", plan.items},
             {"warm_ups", plan.warm_ups},
             {"repeats", plan.repeats},
             {"keep", plan.keep},
             {"hardware", plan.hardware},
             {"entity", plan.entity},
             {"title", plan.title},
             {"config_file", plan.config_file},
             {"config_hash", plan.config.hash()}};
  if (std::filesystem::exists(study_file(plan.out))) {
    const json before = json::parse(read_file(study_file(plan.out)), nullptr, false);
    for (const char* key : {"stage", "training", "mode", "items", "config_hash"})
      if (before.is_object() && before.value(key, json()) != study[key])
        fail(ErrorKind::Config,
             {"another study is in this folder", plan.out.string(),
              cat("its ", key, " is ", before.value(key, json()).dump(), ", and now it would be ", study[key].dump()),
              "name another folder with --out"});
  }
  write_file_atomic(config_file(plan.out), config::to_toml(plan.config.table, true));
  write_file_atomic(study_file(plan.out), study.dump(1) + "\n");
}

ScalingPlan read_study(const Path& out) {
  const Path file = study_file(out);
  if (!std::filesystem::exists(file))
    fail(ErrorKind::Usage, {"there is no scaling study in this folder", out.string(), "it holds no study.json",
                            "begin one: divergen scaling CONFIG --stage generate --ranks 1,2,4 --out DIR"});
  try {
    const json from = json::parse(read_file(file));
    ScalingPlan plan;
    plan.stage = from.at("stage");
    plan.training = from.at("training");
    plan.mode = from.at("mode");
    plan.items = from.at("items");
    plan.warm_ups = from.at("warm_ups");
    plan.repeats = from.at("repeats");
    plan.keep = from.at("keep");
    plan.hardware = from.at("hardware");
    plan.entity = from.at("entity");
    plan.title = from.at("title");
    plan.config_file = from.at("config_file");
    plan.out = std::filesystem::absolute(out).lexically_normal();
    plan.config = config::read_run_config(config_file(out));
    return plan;
  } catch (const json::exception& problem) {
    fail(ErrorKind::Data, {"a scaling study's file is damaged", file.string(), problem.what(),
                           "give the original command again, which writes it anew"});
  }
}

Path point_folder(const ScalingPlan& plan, std::int64_t ranks) {
  char name[24];
  std::snprintf(name, sizeof name, "p%06lld", static_cast<long long>(ranks));
  return plan.out / "points" / name;
}

std::vector<stages::ScalingRun> read_runs(const ScalingPlan& plan) {
  std::vector<stages::ScalingRun> runs;
  std::error_code absent;
  for (const auto& point : std::filesystem::directory_iterator(plan.out / "points", absent))
    for (const auto& run : std::filesystem::directory_iterator(point.path(), absent)) {
      const Path file = run.path() / "run.json";
      if (std::filesystem::exists(file)) runs.push_back(stages::scaling_run_of(read_file(file), file.string()));
    }
  const Path failures = plan.out / "failures.jsonl";
  if (std::filesystem::exists(failures))
    for (const std::string& line : split(read_file(failures), '\n'))
      if (line.ends_with("}")) runs.push_back(stages::scaling_run_of(line, failures.string()));  // else a torn line
  return runs;
}

std::vector<int> open_repeats(const ScalingPlan& plan, std::int64_t ranks) {
  std::vector<int> open;
  for (int repeat = plan.warm_ups > 0 ? 0 : 1; repeat <= plan.repeats; ++repeat)
    if (!std::filesystem::exists(point_folder(plan, ranks) / cat("r", repeat) / "run.json")) open.push_back(repeat);
  return open;
}

Path write_results(const ScalingPlan& plan) {
  stages::ScalingStudy study;
  study.stage = plan.label();
  study.mode = plan.mode;
  study.title = plan.title;
  study.unit = unit_of(plan.stage);
  study.hardware = plan.hardware;
  study.entity = plan.entity;
  study.config_hash = plan.config.hash();
  study.config_file = plan.config_file;
  study.repeats = plan.repeats;
  const Path machine = plan.out / "machine.json";
  if (!std::filesystem::exists(machine))
    write_file_atomic(machine, json{{"hardware", short_hardware()}, {"facts", machine_facts(plan)}}.dump(1) + "\n");
  const json known = json::parse(read_file(machine), nullptr, false);
  if (known.is_object()) {
    if (study.hardware.empty()) study.hardware = known.value("hardware", "unknown");
    study.facts = known.value("facts", study.facts);
  }
  std::map<std::string, std::string> scripts;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(plan.out / "slurm", absent))
    if (entry.path().extension() == ".sbatch") scripts[entry.path().filename().string()] = read_file(entry.path());

  Path name;
  for (std::vector<stages::ScalingRun> runs = read_runs(plan);;) {
    double first = epoch_seconds();
    for (const stages::ScalingRun& run : runs) first = std::min(first, run.begun);
    const auto time = static_cast<std::time_t>(first);
    std::tm parts{};
    gmtime_r(&time, &parts);
    char date[16];
    std::strftime(date, sizeof date, "%Y-%m-%d", &parts);
    study.date = date;

    std::vector<stages::SimulatedPoint> simulated;
    std::map<std::int64_t, double> predicted;
    std::string basis;
    if (const Path file = plan.out / "simulated.json"; std::filesystem::exists(file))
      basis = stages::read_simulated(read_file(file), file.string(), simulated, predicted);
    const std::size_t count = runs.size();
    stages::ScalingResults results = stages::scaling_results(study, std::move(runs), simulated, predicted);
    results.simulated_basis = basis;
    name = plan.out / stages::scaling_file_name(study);
    write_file_atomic(name.string() + ".csv", stages::scaling_csv(results));
    write_file_atomic(name.string() + ".json", stages::scaling_json(results));
    write_file_atomic(name.string() + ".html",
                      stages::scaling_page(results, read_file(config_file(plan.out)), scripts));
    runs = read_runs(plan);
    if (runs.size() == count) return name;  // else a job of another point has finished a run meanwhile
  }
}

}  // namespace divergen::driver
