// divergen run CONFIG, and each stage alone.

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "driver/launch.hpp"
#include "stages/common/run_directory.hpp"
#include "stages/report/report.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string config, training;
  std::vector<std::string> overrides;
  std::int64_t ranks = 0;
  bool print_config = false, dry_run = false;
};

/// One launch of the worker: a stage, for train and evaluate of one training.
struct Step {
  std::string stage, training;
  std::string label() const { return training.empty() ? stage : stage + "." + training; }
};

const std::vector<std::string> kLibraryStages{"plan", "generate", "annotate", "filter", "pool"};

bool needs_library(const config::RunConfig& config) {
  for (const auto& training : config.trainings)
    if (training.use_pool) return true;
  return config.trainings.empty();
}

std::vector<Step> steps_of(const config::RunConfig& config, const std::string& stage, const std::string& training) {
  std::vector<Step> steps;
  const bool all = stage == "run";
  for (const std::string& name : kLibraryStages)
    if (name == stage || (all && needs_library(config))) steps.push_back({name, ""});
  if (all || stage == "train" || stage == "evaluate") {
    for (const auto& t : config.trainings) {
      if (!training.empty() && t.name != training) continue;
      if (all || stage == "train") steps.push_back({"train", t.name});
      if (all || stage == "evaluate") steps.push_back({"evaluate", t.name});
    }
    if (!training.empty() && steps.empty())
      fail(ErrorKind::Usage, {"there is no such training", training, "the configuration does not name it",
                              "use a name of its [[trainings]]"});
  }
  return steps;
}

int default_ranks(const config::RunConfig& config, std::int64_t asked) {
  if (asked > 0) return static_cast<int>(asked);
  if (config.run.ranks > 0) return static_cast<int>(config.run.ranks);
  if (const char* slurm = std::getenv("SLURM_NTASKS")) return std::max(1, std::atoi(slurm));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::string headline(const stages::RunDirectory& dir) {
  const auto json = nlohmann::json::parse(read_file(dir.metrics()), nullptr, false);
  if (!json.is_object() || !json.contains("evaluations")) return "";
  std::string text;
  for (const auto& [name, value] : json["evaluations"].items()) {
    text += cat("  ", name, std::string(name.size() < 14 ? 14 - name.size() : 1, ' '));
    for (const char* kind : {"bbox", "segm"})
      for (const char* key : {"AP", "APr", "APc", "APf"}) {
        if (!value.contains(kind)) continue;
        char number[48];
        const double ap = value[kind].value(key, -1.0);
        std::snprintf(number, sizeof number, "%s%s %s %5.1f", std::string(key) == "AP" ? "  " : " ",
                      std::string(key) == "AP" ? (std::string(kind) == "bbox" ? "box" : "mask") : "", key,
                      ap < 0 ? -1.0 : 100 * ap);
        text += number;
      }
    text += '\n';
  }
  return text;
}

int make_report(const config::RunConfig& config) {
  const stages::RunDirectory dir(config.run.dir);
  stages::write_report(dir, config);
  const std::string lines = headline(dir);
  if (!lines.empty()) std::cerr << "\n" << lines << "\n";
  log::info("report: ", std::filesystem::absolute(dir.report()).string());
  return 0;
}

Launch launch_of(const Options& o, const config::RunConfig& config, const Step& step) {
  Launch launch;
  launch.ranks = default_ranks(config, o.ranks);
  launch.threads_per_rank = static_cast<int>(config.run.threads_per_rank);
  launch.worker_args = {step.stage, o.config};
  if (!step.training.empty()) launch.worker_args.insert(launch.worker_args.end(), {"--training", step.training});
  for (const std::string& set : o.overrides) launch.worker_args.insert(launch.worker_args.end(), {"--set", set});
  return launch;
}

/// Every file that the steps will open, so that a missing one is named now and not after hours of other stages.
void check_inputs(const config::RunConfig& config, const std::vector<Step>& steps) {
  const auto need = [](const Path& path, const std::string& key) {
    if (path.empty() || std::filesystem::exists(path)) return;
    fail(ErrorKind::Io, {"an input of the run is missing", path.string(),
                         cat("there is no such file; the configuration names it as ", key),
                         "correct the path, or put the file there"});
  };
  const auto has = [&](const std::string& stage) {
    return std::any_of(steps.begin(), steps.end(), [&](const Step& step) { return step.stage == stage; });
  };
  if (has("plan") || has("train")) need(config.data.categories, "data.categories");
  if (has("plan"))
    for (const auto& prompts : config.prompts) need(prompts.folder, cat("prompts.", prompts.name, ".folder"));
  if (has("generate"))
    for (const auto& generator : config.generators)
      need(generator.weights, cat("generators.", generator.name, ".weights"));
  if (has("annotate")) need(config.annotator.weights, "annotator.weights");
  if (has("filter")) need(config.filter.clip, "filter.clip");
  if (has("filter") || has("train")) {
    need(config.data.train_json, "data.train_json");
    need(config.data.train_images, "data.train_images");
  }
  if (has("train")) {
    need(config.data.area_stats, "data.area_stats");
    need(config.detector.backbone_weights, "detector.backbone_weights");
    for (const auto& training : config.trainings)
      need(training.init, cat("init of the training '", training.name, "'"));
  }
  if (has("evaluate")) {
    need(config.data.val_json, "data.val_json");
    need(config.data.val_images, "data.val_images");
  }
}

int explain(const std::string& label, int code) {
  if (code == exit_code(ErrorKind::Stopped))
    log::warn("stopped early in stage ", label, "; run the same command again to continue");
  else
    log::error("stage ", label, " ended with exit code ", code,
               "; the lines above say why. What was committed stays: ", "run the same command again to continue");
  return code;
}

int run_stages(const Options& o, const std::string& stage) {
  const config::RunConfig config = config::read_run_config(o.config, o.overrides);
  if (o.print_config) {
    std::cout << config::to_toml(config.table, true);
    return 0;
  }
  const std::vector<Step> steps = steps_of(config, stage, o.training);
  if (o.dry_run) {
    for (const Step& step : steps) {
      std::string line;
      for (const std::string& part : command_line(launch_of(o, config, step))) line += (line.empty() ? "" : " ") + part;
      std::cout << line << '\n';
    }
    return 0;
  }
  check_inputs(config, steps);
  const RunLock lock(config.run.dir);
  const stages::RunDirectory dir(config.run.dir);
  write_file_atomic(dir.config(), config::to_toml(config.table, true));
  remove_quietly(dir.stop_file());
  if (stage == "report") return make_report(config);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    log::info("[", i + 1, "/", steps.size(), "] ", steps[i].label());
    const int code = run(launch_of(o, config, steps[i]));
    if (code != 0) return explain(steps[i].label(), code);
  }
  return stage == "run" ? make_report(config) : 0;
}

}  // namespace

void add_run_commands(CLI::App& app, Action& action) {
  struct Entry {
    const char *name, *help;
  };
  static constexpr Entry kEntries[] = {
      {"run",
       "all stages in order on this machine; continues where it stopped\n\nExample: divergen run configs/mini.toml "
       "--ranks 2"},
      {"plan", "freeze the list of items: (generator, category, prompt, sample, seed)"},
      {"generate", "make the pictures of the plan"},
      {"annotate", "cut the objects out of the pictures"},
      {"filter", "score the pictures with CLIP and decide which stay"},
      {"pool", "write the kept cut-outs into the instance library"},
      {"train", "train the detector (all trainings, or one: --training NAME)"},
      {"evaluate", "detect on the validation images and compute AP"},
      {"report", "metrics.json and report.html of what is there"},
  };
  for (const Entry& entry : kEntries) {
    auto* command = app.add_subcommand(entry.name, entry.help);
    auto o = std::make_shared<Options>();
    command->add_option("config", o->config, "configuration file (TOML)")->required();
    command->add_option("--set", o->overrides, "section.key=value, over the file")->take_all();
    command->add_option("--ranks", o->ranks, "MPI ranks (default: run.ranks, else one a core)")
        ->check(CLI::PositiveNumber);
    command->add_option("--training", o->training, "only this one of [[trainings]]");
    command->add_flag("--print-config", o->print_config, "print the effective configuration with each value's origin");
    command->add_flag("--dry-run", o->dry_run, "print what would be launched");
    command->callback(
        [o, name = std::string(entry.name), &action] { action = [o, name] { return run_stages(*o, name); }; });
  }
}

}  // namespace divergen::driver
