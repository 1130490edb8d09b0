// divergen run CONFIG, and each stage alone.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "comm/watchdog.hpp"
#include "driver/commands.hpp"
#include "driver/launch.hpp"
#include "driver/steps.hpp"
#include "stages/common/run_directory.hpp"
#include "stages/plan/estimate.hpp"
#include "stages/plan/plan_input.hpp"
#include "stages/plan/train_estimate.hpp"
#include "stages/report/report.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string config, training;
  std::vector<std::string> overrides;
  std::int64_t ranks = 0, retry_rejected = 0;
  bool fused = false;
  bool print_config = false, dry_run = false, json = false;
};

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

int explain(const stages::RunDirectory& dir, const std::string& label, int code) {
  // Ranks that were killed have said nothing; one that met the loss of another has said it itself.
  if (code == exit_code(ErrorKind::Comm))
    if (const auto words = comm::last_words(dir.root() / "logs", label)) log::error("stage ", label, ": ", *words);
  if (code == exit_code(ErrorKind::Stopped))
    log::warn("stopped early in stage ", label, "; run the same command again to continue");
  else
    log::error("stage ", label, " ended with exit code ", code,
               "; the lines above say why. What was committed stays: ", "run the same command again to continue");
  return code;
}

/// What would be launched, and what the library and the trainings would cost.
int explain_plans(const Options& o, const config::RunConfig& config, const std::vector<Step>& steps) {
  for (const Step& step : steps) {
    std::string line;
    for (const std::string& part : command_line(launch_of(o, config, step))) line += (line.empty() ? "" : " ") + part;
    (o.json ? std::cerr : std::cout) << line << '\n';
  }
  nlohmann::json all = nlohmann::json::object();
  const bool makes_library = std::any_of(steps.begin(), steps.end(), [](const Step& step) {
    return std::find(kLibraryStages.begin(), kLibraryStages.end(), step.stage) != kLibraryStages.end();
  });
  if (makes_library && !config.generators.empty()) {
    const stages::PlanEstimate estimate = stages::estimate_plan(config, stages::make_plan(stages::plan_input(config)));
    if (o.json) all = nlohmann::json::parse(stages::to_json(estimate));
    else std::cout << "\n" << stages::to_text(estimate);
  }
  for (const Step& step : steps) {
    if (step.stage != "train") continue;
    const auto training = std::find_if(config.trainings.begin(), config.trainings.end(),
                                       [&](const auto& t) { return t.name == step.training; });
    const stages::TrainingEstimate estimate =
        stages::estimate_training(config, *training, default_ranks(config, o.ranks));
    if (o.json) all["trainings"].push_back(nlohmann::json::parse(stages::to_json(estimate)));
    else std::cout << "\n" << stages::to_text(estimate);
  }
  if (o.json && !all.empty()) std::cout << all.dump(1) << "\n";
  return 0;
}

/// The user's command at the end of a stage (slurm/README.md: what it is told). What becomes of it is its own affair.
void call_hook(const config::RunConfig& config, const std::string& label, int code) {
  if (config.run.hook.empty()) return;
  ::setenv("DIVERGEN_STAGE", label.c_str(), 1);
  ::setenv("DIVERGEN_STATE", code == 0 ? "done" : code == exit_code(ErrorKind::Stopped) ? "stopped" : "failed", 1);
  ::setenv("DIVERGEN_EXIT", std::to_string(code).c_str(), 1);
  ::setenv("DIVERGEN_RUN", config.run.dir.c_str(), 1);
  if (const int result = std::system(config.run.hook.c_str()); result != 0)
    log::warn("the hook (run.hook) ended with status ", result);
}

int run_stages(Options o, const std::string& stage) {
  if (stage == "fused" || o.fused) o.overrides.push_back("run.fused=true");
  if (o.retry_rejected > 0) o.overrides.push_back(cat("plan.retry_rejected=", o.retry_rejected));
  const config::RunConfig config = config::read_run_config(o.config, o.overrides);
  if (o.print_config) {
    std::cout << config::to_toml(config.table, true);
    return 0;
  }
  const std::vector<Step> steps = steps_of(config, stage, o.training);
  if (o.dry_run) return explain_plans(o, config, steps);
  check_inputs(config, steps);
  const RunLock lock(config.run.dir);
  const stages::RunDirectory dir(config.run.dir);
  stages::sweep_run_folder(dir);
  write_file_atomic(dir.config(), config::to_toml(config.table, true));
  remove_quietly(dir.stop_file());
  if (stage == "report") return make_report(config);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    log::info("[", i + 1, "/", steps.size(), "] ", steps[i].label());
    const int code = run(launch_of(o, config, steps[i]));
    call_hook(config, steps[i].label(), code);
    if (code != 0) return explain(dir, steps[i].label(), code);
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
      {"fused", "generate, annotate, filter and pool in one, without pictures on the disk (run.fused)"},
      {"filter", "score the pictures with CLIP and decide which stay"},
      {"pool", "write the kept cut-outs into the instance library"},
      {"retry", "further samples of items that failed or were rejected (plan.retry_rejected)"},
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
    if (std::string(entry.name) == "run" || std::string(entry.name) == "retry")
      command
          ->add_option("--retry-rejected", o->retry_rejected,
                       "further samples of each item that failed or was rejected (plan.retry_rejected)")
          ->check(CLI::PositiveNumber);
    if (std::string(entry.name) == "run")
      command->add_flag("--fused", o->fused,
                        "make the library in one stage, without pictures and masks on the disk (run.fused)");
    command->add_flag("--print-config", o->print_config, "print the effective configuration with each value's origin");
    command->add_flag("--dry-run", o->dry_run,
                      "print what would be launched, and what it takes: items, files, bytes, memory, disk, hours");
    command->add_flag("--json", o->json, "with --dry-run: machine-readable, on stdout");
    command->callback(
        [o, name = std::string(entry.name), &action] { action = [o, name] { return run_stages(*o, name); }; });
  }
}

}  // namespace divergen::driver
