// divergen scaling CONFIG: strong and weak scaling of a stage, measured here or as Slurm jobs, and simulated beyond.

#include <algorithm>
#include <iostream>
#include <memory>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "driver/launch.hpp"
#include "driver/scaling_study.hpp"
#include "driver/slurm_queue.hpp"
#include "driver/slurm_script.hpp"
#include "driver/steps.hpp"
#include "stages/plan/estimate.hpp"
#include "stages/plan/plan_input.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string config, stage = "generate", mode = "strong", training, out, hardware, entity, title, site, from;
  std::vector<std::string> overrides, sbatch;
  std::vector<std::int64_t> ranks, simulate;
  std::int64_t items = 0, ranks_per_node = 8, point = 0;
  int repeats = 5, warm_ups = 1;
  bool submit = false, dry_run = false, keep = false, collect = false;
};

/// The training that is meant where there is but one.
std::string training_name(const Options& o, const config::RunConfig& config) {
  if (o.stage != "train" && o.stage != "evaluate") return "";
  if (o.training.empty() && config.trainings.size() == 1) return config.trainings.front().name;
  return driver::training_of(config, o.training).name;
}

bool makes_pictures(const std::string& stage) { return stage == "generate" || stage == "annotate"; }

std::string title_of(const ScalingPlan& plan) {
  return cat(plan.is_weak() ? "Weak" : "Strong", " scaling of ", plan.label());
}

ScalingPlan plan_of(const Options& o) {
  ScalingPlan plan;
  plan.config = config::read_run_config(o.config, o.overrides);
  plan.stage = o.stage;
  plan.mode = o.mode;
  plan.training = training_name(o, plan.config);
  plan.repeats = o.repeats;
  plan.warm_ups = o.warm_ups;
  plan.keep = o.keep;
  plan.hardware = o.hardware;
  plan.entity = o.entity.empty() ? Path(o.config).stem().string() : o.entity;
  plan.title = o.title.empty() ? title_of(plan) : o.title;
  plan.config_file = o.config;
  const Path out =
      o.out.empty() ? Path(plan.config.run.dir.string() + "-scaling") / cat(plan.label(), "-", plan.mode) : Path(o.out);
  plan.out = std::filesystem::absolute(out).lexically_normal();
  plan.items = o.items;
  if (plan.items == 0) {
    // Weak: as many that the largest point has what the configuration has.
    const std::int64_t all = configured_items(plan.config, plan.stage, plan.training);
    const std::int64_t most = *std::max_element(o.ranks.begin(), o.ranks.end());
    plan.items = plan.is_weak() ? std::max<std::int64_t>(1, all / most) : all;
    const auto generators = static_cast<std::int64_t>(plan.config.generators.size());
    if (makes_pictures(plan.stage)) plan.items = std::max(generators, plan.items / generators * generators);
    if (plan.stage == "train") {
      const std::int64_t batch = driver::training_of(plan.config, plan.training).batch;
      plan.items = std::max(batch, plan.items / batch * batch);
    }
  }
  const auto generators = static_cast<std::int64_t>(plan.config.generators.size());
  if (makes_pictures(plan.stage) && (generators == 0 || plan.items % generators != 0))
    fail(ErrorKind::Usage, {"the pictures cannot be shared evenly by the generators", cat(plan.items, " pictures"),
                            cat("there are ", generators, " generators"), "give a multiple of that as --items"});
  return plan;
}

std::vector<std::int64_t> sorted(std::vector<std::int64_t> ranks) {
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

// ---- Slurm ---------------------------------------------------------------------------------------------------------

ScriptRequest request_of(const Options& o, const ScalingPlan& plan) {
  ScriptRequest request;
  request.templates = slurm_folder();
  request.site = o.site.empty() ? Site{} : read_site(request.templates / "sites", o.site);
  request.sbatch = o.sbatch;
  request.run = plan.out;
  request.config = plan.out / "config.effective.toml";
  request.programs = program_folder();
  request.work = std::filesystem::current_path();
  request.submission = o.dry_run ? "dry-run" : cat("submission-", static_cast<long long>(epoch_seconds()));
  request.hook = plan.config.run.hook;
  request.mail = plan.config.run.mail;
  return request;
}

std::vector<Script> scripts_of(const Options& o, const ScalingPlan& plan) {
  const ScriptRequest request = request_of(o, plan);
  std::vector<Script> scripts;
  for (const std::int64_t ranks : sorted(o.ranks)) {
    SlurmJob job;
    job.label = cat("scaling.p", ranks);
    job.stage = plan.stage;
    job.body = "scaling";
    job.arguments = {std::to_string(ranks)};
    job.ranks = ranks;
    scripts.push_back(make_script(job, request));
  }
  return scripts;
}

/// One job a point, those that have runs to make.
int submit(const Options& o, const ScalingPlan& plan) {
  const stages::RunDirectory dir(plan.out);
  if (const auto earlier = read_submission(dir)) {
    const auto queued = ask_queue(*earlier);
    if (queued && !queued->empty())
      fail(ErrorKind::Usage,
           {"this study is in the queue already", plan.out.string(), cat(queued->size(), " jobs of it are there"),
            cat("wait for them, or end them with divergen cancel ", plan.out.string())});
  }
  const std::vector<std::int64_t> ranks = sorted(o.ranks);
  const std::vector<Script> scripts = scripts_of(o, plan);
  const Path folder = plan.out / "slurm";
  make_folder(folder);
  make_folder(plan.out / "logs");
  remove_quietly(folder / "CANCELLED");
  write_file_atomic(folder / "lib.sh", read_file(slurm_folder() / "lib.sh"));
  Submission submission{request_of(o, plan).submission, o.config, o.site, {}};
  for (std::size_t i = 0; i < scripts.size(); ++i) {
    write_file_atomic(folder / scripts[i].name, scripts[i].text);
    if (open_repeats(plan, ranks[i]).empty()) continue;
    const std::string id = submit_one({"sbatch", "--parsable", (folder / scripts[i].name).string()});
    submission.jobs.push_back({cat("scaling.p", ranks[i]), id, (folder / scripts[i].name).string()});
    write_submission(dir, submission);
    log::info("job ", id, ": ", ranks[i], ranks[i] == 1 ? " rank" : " ranks");
  }
  log::info("the results are written anew by each job, in ", plan.out.string());
  return 0;
}

// ---- what is going to happen ---------------------------------------------------------------------------------------

/// Seconds of one item on one rank: as measured in this study, else estimated; negative: not known.
double seconds_of_item(const ScalingPlan& plan, std::string& basis) {
  const stages::ScalingResults results = stages::scaling_results({}, read_runs(plan));
  for (const stages::ScalingPoint& point : results.points)
    if (point.runs > 0) {
      basis = cat("as measured on ", point.ranks, " ranks of this study");
      return static_cast<double>(point.ranks) / point.rate.median;
    }
  if (!makes_pictures(plan.stage)) return -1;
  const config::RunConfig& config = plan.config;
  if (!std::filesystem::exists(config.data.categories)) return -1;  // the data set is not there yet
  double hours = 0, items = 0;
  for (const auto& stage : stages::estimate_plan(config, stages::make_plan(stages::plan_input(config))).stages)
    if (stage.stage == plan.stage || stage.stage.starts_with(plan.stage + ".")) {
      hours += stage.device_hours;
      items += static_cast<double>(stage.items);
      basis = stage.basis;
    }
  return items > 0 ? 3600 * hours / items : -1;
}

std::string padded(const std::string& text, std::size_t width) {
  return std::string(text.size() < width ? width - text.size() : 0, ' ') + text;
}

int print_plan(const Options& o, const ScalingPlan& plan) {
  std::string basis;
  const double item = seconds_of_item(plan, basis);
  const int starts = plan.repeats + (plan.warm_ups > 0 ? 1 : 0);
  std::cout << plan.title << ": " << starts << " runs a point, "
            << (plan.warm_ups > 0 ? "the first of them to warm up, " : "") << "in " << plan.out.string() << "\n\n"
            << padded("ranks", 8) << padded(unit_of(plan.stage), 12) << padded("a rank", 10) << padded("shards", 9)
            << padded("to run", 8) << padded("time of a run", 20) << padded("rank-hours", 12) << '\n';
  double all = 0;
  bool is_coarse = false;
  for (const std::int64_t ranks : sorted(o.ranks)) {
    const config::RunConfig config = point_config(plan, ranks);  // also checks it
    const std::int64_t items = plan.items_at(ranks);
    const bool is_sharded = makes_pictures(plan.stage);
    const std::int64_t shards = (items + config.plan.shard_items - 1) / config.plan.shard_items;
    is_coarse = is_coarse || (is_sharded && shards < 4 * ranks);
    const std::size_t open = open_repeats(plan, ranks).size();
    const double seconds = item * static_cast<double>(items) / static_cast<double>(ranks);
    const double hours = seconds * static_cast<double>(ranks) * static_cast<double>(open) / 3600;
    all += hours;
    std::cout << padded(with_thousands(ranks), 8) << padded(with_thousands(items), 12)
              << padded(with_thousands(items / ranks), 10) << padded(is_sharded ? with_thousands(shards) : "-", 9)
              << padded(std::to_string(open), 8) << padded(item < 0 ? "not known" : human_seconds(seconds), 20)
              << padded(item < 0 ? "-" : fixed(hours, 2), 12) << '\n';
  }
  if (item >= 0)
    std::cout << "\n"
              << fixed(all, 2) << " rank-hours in all without start-up, if it scaled perfectly (" << basis << ")\n";
  if (is_coarse)
    std::cout << "\nwarning: a point has fewer than four shards a rank, so that the last ones decide its time: lower "
                 "plan.shard_items (--set plan.shard_items=...), or raise --items\n";
  if (!o.submit) return 0;
  std::cout << '\n';
  const std::vector<Script> scripts = scripts_of(o, plan);
  for (const Script& script : scripts) std::cout << "==> " << script.name << " <==\n" << script.text << '\n';
  std::cout << "==> what is submitted <==\n";
  for (const Script& script : scripts)
    std::cout << "sbatch --parsable " << (plan.out / "slurm" / script.name).string() << '\n';
  return 0;
}

int finish(const Options& o, const ScalingPlan& plan) {
  if (!o.simulate.empty()) simulate_points(plan, o.simulate, o.from, o.ranks_per_node);
  const Path name = write_results(plan);
  log::info("results: ", name.string(), ".html, .csv, .json");
  return 0;
}

int scaling(const Options& o) {
  if (o.point > 0 || o.collect) {
    if (o.out.empty())
      fail(ErrorKind::Usage, {"a study is to be continued, and it is not said which", "--out", "", "name its folder"});
    const ScalingPlan plan = read_study(o.out);
    const int code = o.point > 0 ? run_point(plan, o.point) : 0;
    finish(o, plan);
    return code;
  }
  if (o.config.empty())
    fail(ErrorKind::Usage, {"there is no configuration", "divergen scaling CONFIG", "",
                            "name a TOML file, or --collect --out DIR for a study that is there"});
  if (o.ranks.empty() && o.simulate.empty())
    fail(ErrorKind::Usage, {"no numbers of ranks are given", "--ranks", "", "write --ranks 1,2,4 or --simulate 1000"});
  if (o.ranks.empty() && o.items == 0)
    fail(ErrorKind::Usage, {"how many items are simulated is not said", "--items", "", "give --items with --simulate"});
  const ScalingPlan plan = plan_of(o);
  if (o.dry_run) return print_plan(o, plan);
  for (const std::int64_t ranks : sorted(o.ranks)) point_config(plan, ranks);  // all of them are checked first
  freeze_study(plan);
  if (o.submit) return submit(o, plan);
  for (const std::int64_t ranks : sorted(o.ranks)) {
    const int code = run_point(plan, ranks);
    write_results(plan);
    if (code != 0) {
      if (code == exit_code(ErrorKind::Stopped)) log::warn("stopped early; give the same command again to continue");
      return code;
    }
  }
  finish(o, plan);
  const auto runs = read_runs(plan);
  const auto failed = std::count_if(runs.begin(), runs.end(), [](const auto& run) { return run.has_failed(); });
  for (const std::int64_t ranks : o.ranks)
    if (!open_repeats(plan, ranks).empty()) {
      log::error(failed, " runs failed; give the same command again to repeat those that are missing");
      return exit_code(ErrorKind::Bug);
    }
  return 0;
}

}  // namespace

void add_scaling_command(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "scaling",
      "strong or weak scaling of a stage: measured, or simulated where the ranks are not there\n\n"
      "Example: divergen scaling configs/mini.toml --stage generate --ranks 1,2,4 --mode weak --items 64\n"
      "         divergen scaling study.toml --stage train --training all --ranks 4,8,16 --submit --site gpu");
  auto o = std::make_shared<Options>();
  command->add_option("config", o->config, "configuration file (TOML)");
  command->add_option("--set", o->overrides, "section.key=value, over the file")->take_all();
  command->add_option("--stage", o->stage, "what is measured (default: generate)")
      ->check(CLI::IsMember({"generate", "annotate", "train", "evaluate"}));
  command->add_option("--training", o->training, "of train and evaluate: which of [[trainings]]");
  command->add_option("--ranks", o->ranks, "numbers of MPI ranks: 1,2,4")->delimiter(',')->check(CLI::PositiveNumber);
  command->add_option("--mode", o->mode, "strong: the items are fixed; weak: the items of a rank are")
      ->check(CLI::IsMember({"strong", "weak"}));
  command->add_option("--repeat", o->repeats, "runs of each point that count (default: 5)")->check(CLI::Range(1, 1000));
  command->add_option("--warm-up", o->warm_ups, "runs before them that do not: 1 or 0")->check(CLI::Range(0, 1));
  command
      ->add_option("--items", o->items,
                   "pictures, samples or images: in all (strong) or of each rank (weak); default: as configured")
      ->check(CLI::PositiveNumber);
  command->add_option("--out", o->out, "folder of the study (default: <run.dir>-scaling/<stage>-<mode>)");
  command->add_option("--hardware", o->hardware, "for the results' names (default: as found)");
  command->add_option("--entity", o->entity,
                      "for the results' names: whose, or of what (default: the configuration's)");
  command->add_option("--title", o->title, "of the page");
  command->add_flag("--keep", o->keep, "keep what the runs made, not their records alone");
  command->add_option("--simulate", o->simulate, "numbers of ranks to simulate: 1000,10000")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  command->add_option("--from", o->from,
                      "items' times for --simulate: a run directory, a file of times, or log-normal:MEDIAN,SIGMA "
                      "(default: as measured in the study)");
  command->add_option("--ranks-per-node", o->ranks_per_node, "of simulated nodes (default: 8)")
      ->check(CLI::PositiveNumber);
  command->add_flag("--submit", o->submit, "one Slurm job a point, in place of running them here");
  command->add_option("--site", o->site, "with --submit: name of a file in slurm/sites");
  command->add_option("--sbatch", o->sbatch, "with --submit: an option of sbatch, --time=1:00:00")->take_all();
  command->add_flag("--dry-run", o->dry_run, "print the points, what they cost, and the scripts");
  command->add_flag("--collect", o->collect, "only make the results anew, of the study in --out");
  command->add_option("--point", o->point, "only this number of ranks, of the study in --out (for its jobs)");
  command->callback([o, &action] { action = [o] { return scaling(*o); }; });
}

}  // namespace divergen::driver
