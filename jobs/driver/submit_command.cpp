// divergen submit CONFIG, divergen cancel RUN: the whole study as a chain of Slurm jobs.

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <memory>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "driver/launch.hpp"
#include "driver/process.hpp"
#include "driver/slurm_queue.hpp"
#include "driver/slurm_script.hpp"
#include "driver/steps.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string config, site, array;
  std::vector<std::string> overrides, sbatch;
  std::int64_t chain = 0, retry_rejected = 0;
  bool fused = false;
  bool dry_run = false, heterogeneous = false;
};

/// "1,2,5-7".
std::vector<std::int64_t> seeds_of(const std::string& text) {
  std::vector<std::int64_t> seeds;
  const auto number = [&](std::string_view part) {
    std::int64_t value = -1;
    const auto [end, problem] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (problem != std::errc() || end != part.data() + part.size() || value < 0)
      fail(ErrorKind::Usage, {"these seeds cannot be read", text, cat("'", part, "' is no number"),
                              "write them as in --array seeds=1,2,5-7"});
    return value;
  };
  for (const std::string& part : split(text, ',')) {
    const std::size_t dash = part.find('-');
    const std::int64_t first = number(part.substr(0, dash));
    const std::int64_t last = dash == std::string::npos ? first : number(part.substr(dash + 1));
    constexpr std::int64_t kMost = 10'000;  // array tasks that sites allow
    if (last < first || last - first >= kMost)
      fail(ErrorKind::Usage, {"these seeds cannot be read", text, cat("'", part, "' is no range"), "write 1-3"});
    for (std::int64_t seed = first; seed <= last; ++seed) seeds.push_back(seed);
  }
  return seeds;
}

config::RunConfig config_of(const Options& o) {
  config::RunConfig config = config::read_run_config(o.config, o.overrides);
  if (o.array.empty() || o.array == "ablations") return config;
  if (!o.array.starts_with("seeds="))
    fail(ErrorKind::Usage, {"this array is not known", o.array, "", "use --array ablations or --array seeds=1,2,3"});
  return with_seeds(config, seeds_of(o.array.substr(6)));
}

/// One script as it will be submitted: what it waits for is known by label.
struct Planned {
  SlurmJob job;
  Script script;
};

/// A number of ranks that cannot share a batch would be found out hours later, by the training.
void check_ranks(const Planned& planned, const config::RunConfig& config) {
  const std::int64_t ranks = ranks_of(planned.script.options);
  if (planned.job.stage != "train" || ranks == 0) return;
  for (const auto& training : config.trainings)
    if (training.batch % ranks != 0 && std::find(planned.job.trainings.begin(), planned.job.trainings.end(),
                                                 training.name) != planned.job.trainings.end())
      fail(ErrorKind::Config,
           {"the batch cannot be shared evenly by the ranks", cat("train.batch of '", training.name, "'"),
            cat("it is ", training.batch, ", and the job would have ", ranks, " ranks"),
            "change --nodes or --ntasks-per-node of train (--sbatch train:--nodes=..., the site, or "
            "slurm/train.sbatch), or train.batch"});
}

std::vector<Planned> plan_jobs(const Options& o, const config::RunConfig& config, const ScriptRequest& request) {
  std::vector<Planned> out;
  for (SlurmJob& job : slurm_jobs(config, !o.array.empty(), o.heterogeneous)) {
    Script script = make_script(job, request);
    out.push_back({std::move(job), std::move(script)});
    check_ranks(out.back(), config);
  }
  static const std::vector<std::string> kStages{"plan",  "generate", "annotate", "fused",  "filter", "pool",
                                                "retry", "train",    "evaluate", "report", "library"};
  for (const std::string& given : o.sbatch) {
    const std::string stage = given.substr(0, given.find(":--"));
    if (!given.starts_with("--") && std::find(kStages.begin(), kStages.end(), stage) == kStages.end())
      fail(ErrorKind::Usage,
           {"an option is for a job that there is not", given, cat("no stage is named '", stage, "'"),
            "begin it with plan:, generate:, annotate:, fused:, filter:, pool:, retry:, train:, evaluate:, report: or "
            "library:"});
  }
  return out;
}

/// "--dependency=afterok:12:13,afterany:20"; `id_of` gives the last link of a label.
std::string dependency(const SlurmJob& job, const std::map<std::string, std::string>& id_of,
                       const std::string& before) {
  std::string ids;
  for (const std::string& label : job.after) ids += ":" + id_of.at(label);
  std::string out;
  if (!ids.empty()) out = (job.is_array && job.stage == "evaluate" ? "aftercorr" : "afterok") + ids;
  if (!before.empty()) out += (out.empty() ? "" : ",") + std::string("afterany:") + before;
  return out.empty() ? "" : "--dependency=" + out;
}

std::vector<std::string> sbatch_command(const std::string& dependency, const Path& script) {
  std::vector<std::string> command{"sbatch", "--parsable"};
  if (!dependency.empty()) command.push_back(dependency);
  command.push_back(script.string());
  return command;
}

void print_plan(const Options& o, const std::vector<Planned>& plan, const Path& folder) {
  std::map<std::string, std::string> id_of;
  for (const Planned& p : plan) std::cout << "==> " << p.script.name << " <==\n" << p.script.text << '\n';
  std::cout << "==> what is submitted <==\n";
  for (const Planned& p : plan) {
    std::string before;
    for (std::int64_t link = 1; link <= std::max<std::int64_t>(1, o.chain); ++link) {
      const std::string me = cat("<", p.job.label, o.chain > 1 ? cat("/", link) : "", ">");
      std::string line;
      for (const std::string& part : sbatch_command(dependency(p.job, id_of, before), folder / p.script.name))
        line += (line.empty() ? "" : " ") + part;
      std::cout << line << "   # " << me << '\n';
      before = me;
    }
    id_of[p.job.label] = before;
  }
}

void write_scripts(const std::vector<Planned>& plan, const stages::RunDirectory& dir, const config::RunConfig& config,
                   const Path& templates) {
  const Path folder = dir.root() / "slurm";
  make_folder(folder);
  make_folder(dir.root() / "logs");
  const std::string effective = config::to_toml(config.table, true);
  write_file_atomic(dir.config(), effective);
  write_file_atomic(folder / "config.toml", effective);
  write_file_atomic(folder / "lib.sh", read_file(templates / "lib.sh"));
  for (const Planned& p : plan) write_file_atomic(folder / p.script.name, p.script.text);
}

/// Jobs of an earlier submission that are still there would work on the same stages.
void refuse_second_chain(const stages::RunDirectory& dir) {
  const auto earlier = read_submission(dir);
  if (!earlier) return;
  const auto queued = ask_queue(*earlier);
  if (!queued || queued->empty()) return;
  std::string ids;
  for (const auto& [label, job] : *queued) ids += (ids.empty() ? "" : ", ") + cat(job.id, " (", label, ")");
  fail(ErrorKind::Usage, {"this run is in the queue already", dir.root().string(), cat("jobs ", ids),
                          cat("wait for them, or end them with divergen cancel ", dir.root().string())});
}

int submit_all(const Options& o, const std::vector<Planned>& plan, const stages::RunDirectory& dir,
               Submission submission) {
  std::map<std::string, std::string> id_of;
  try {
    for (const Planned& p : plan) {
      std::string before;
      for (std::int64_t link = 1; link <= std::max<std::int64_t>(1, o.chain); ++link) {
        const Path script = dir.root() / "slurm" / p.script.name;
        before = submit_one(sbatch_command(dependency(p.job, id_of, before), script));
        submission.jobs.push_back({p.job.label, before, script.string(), static_cast<int>(link)});
        write_submission(dir, submission);
        log::info("job ", before, ": ", p.job.label, o.chain > 1 ? cat(", ", link, " of ", o.chain) : "");
      }
      id_of[p.job.label] = before;
    }
  } catch (const Error&) {
    for (const SubmittedJob& job : submission.jobs) capture({"scancel", job.id});  // half a chain helps nobody
    throw;
  }
  log::info("watch it: divergen status ", dir.root().string(), " --watch");
  return 0;
}

int submit(Options o) {
  if (o.fused) o.overrides.push_back("run.fused=true");
  if (o.retry_rejected > 0) o.overrides.push_back(cat("plan.retry_rejected=", o.retry_rejected));
  const config::RunConfig config = config_of(o);
  ScriptRequest request;
  request.templates = slurm_folder();
  request.site = o.site.empty() ? Site{} : read_site(request.templates / "sites", o.site);
  request.sbatch = o.sbatch;
  request.run = std::filesystem::absolute(config.run.dir).lexically_normal();
  request.config = request.run / "slurm" / "config.toml";
  request.programs = program_folder();
  request.work = std::filesystem::current_path();
  request.submission = o.dry_run ? "dry-run" : cat("submission-", static_cast<long long>(epoch_seconds()));
  request.hook = config.run.hook;
  request.mail = config.run.mail;
  request.requeue = o.chain == 0;
  request.library_stages = library_stages(config);
  const std::vector<Planned> plan = plan_jobs(o, config, request);
  if (o.dry_run) {
    print_plan(o, plan, request.run / "slurm");
    return 0;
  }
  check_inputs(config, steps_of(config, "run", ""));
  const stages::RunDirectory dir(request.run);
  refuse_second_chain(dir);
  {
    const RunLock lock(dir.root());
    write_scripts(plan, dir, config, request.templates);
    remove_quietly(dir.stop_file());
    remove_quietly(dir.root() / "slurm" / "CANCELLED");
  }
  return submit_all(o, plan, dir, {request.submission, o.config, o.site, {}});
}

int cancel(const std::string& run) {
  const stages::RunDirectory dir(run);
  const auto submission = read_submission(dir);
  if (!submission)
    fail(ErrorKind::Usage, {"this run was not submitted", run, "it holds no slurm/jobs.json", "name another run"});
  const auto queued = ask_queue(*submission);
  if (!queued) fail(ErrorKind::Io, {"Slurm does not answer", run, "squeue failed", "try again, or from a login node"});
  write_file_atomic(dir.root() / "slurm" / "CANCELLED", "");  // the batch scripts do not requeue then
  std::vector<std::string> waiting{"scancel"}, running{"scancel", "--signal=USR2", "--batch"};
  for (const auto& [label, job] : *queued) (job.is_running() ? running : waiting).push_back(job.id);
  int code = 0;
  if (waiting.size() > 1) code = capture(waiting, true).code;
  if (running.size() > 3) code = std::max(code, capture(running, true).code);
  if (code != 0)
    fail(ErrorKind::Io, {"not all jobs could be cancelled", run, "scancel's message is above", "try it again"});
  const char* command = std::filesystem::exists(dir.root() / "study.json") ? "divergen scaling " : "divergen submit ";
  log::info(waiting.size() - 1, " waiting jobs cancelled, ", running.size() - 3,
            " running ones asked to save and leave; to continue later: ", command, submission->config);
  return 0;
}

}  // namespace

void add_submit_commands(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("submit",
                                     "the whole study as a chain of Slurm jobs\n\n"
                                     "Example: divergen submit study.toml --site gpu --sbatch train:--nodes=4");
  auto o = std::make_shared<Options>();
  command->add_option("config", o->config, "configuration file (TOML)")->required();
  command->add_option("--set", o->overrides, "section.key=value, over the file")->take_all();
  command->add_option("--site", o->site, "name of a file in slurm/sites: partition, account, modules, network");
  command
      ->add_option("--sbatch", o->sbatch,
                   "an option of sbatch, for all jobs (--time=1:00:00) or some (train:--nodes=4)")
      ->take_all();
  command->add_option("--chain", o->chain, "where requeue is off: so many jobs a stage, each continuing the one before")
      ->check(CLI::Range(1, 1000));
  command->add_option("--array", o->array,
                      "trainings as one array job: 'ablations' (those of the configuration) or 'seeds=1,2,3' (each of "
                      "them with each seed)");
  command->add_flag("--het", o->heterogeneous, "plan to pool in one heterogeneous job, with and without GPUs");
  command->add_flag("--fused", o->fused, "make the library in one stage (run.fused)");
  command
      ->add_option("--retry-rejected", o->retry_rejected,
                   "further samples of each item that failed or was rejected (plan.retry_rejected)")
      ->check(CLI::PositiveNumber);
  command->add_flag("--dry-run", o->dry_run, "print the scripts and what would be submitted");
  command->callback([o, &action] { action = [o] { return submit(*o); }; });

  auto* end = app.add_subcommand(
      "cancel", "ends a submitted run: running jobs save first\n\nExample: divergen cancel runs/study");
  auto run = std::make_shared<std::string>();
  end->add_option("run", *run, "run directory")->required();
  end->callback([run, &action] { action = [run] { return cancel(*run); }; });
}

}  // namespace divergen::driver
