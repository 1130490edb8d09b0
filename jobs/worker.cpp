// divergen-worker: one stage on all ranks of an MPI launch. Users start it through `divergen`.

#include <ATen/Parallel.h>

#include <cstdlib>
#include <optional>

#include <CLI/CLI.hpp>

#include "base/allocator.hpp"
#include "base/clock.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "base/stop.hpp"
#include "base/text.hpp"
#include "base/time_use.hpp"
#include "base/walltime.hpp"
#include "comm/watchdog.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/common/context.hpp"
#include "stages/common/watch.hpp"
#include "stages/evaluate/evaluate.hpp"
#include "stages/filter/filter.hpp"
#include "stages/fused/fused.hpp"
#include "stages/generate/generate.hpp"
#include "stages/plan/plan_stage.hpp"
#include "stages/pool/pool.hpp"
#include "stages/reproduce/reproduce.hpp"
#include "stages/retry/retry.hpp"
#include "stages/train/train.hpp"

namespace {

using namespace divergen;

struct Options {
  std::string stage, config, training;
  std::vector<std::string> overrides;
  stages::ReproduceOptions reproduce;
};

log::Level level_of(const std::string& name) {
  if (name == "debug") return log::Level::Debug;
  if (name == "warn") return log::Level::Warn;
  if (name == "error") return log::Level::Error;
  return log::Level::Info;
}

const config::TrainSettings& training_of(const config::RunConfig& config, const std::string& name) {
  for (const auto& training : config.trainings)
    if (training.name == name) return training;
  fail(ErrorKind::Usage,
       {"there is no such training", name, "the configuration does not name it", "use a name of its [[trainings]]"});
}

// Ranks that were asked to stop leave together; one that does not come to its end is not waited for any longer
// (reference/reliability.md §3).
constexpr double kLeaveSeconds = 15;

/// Collective. Rank 0 asks Slurm once and tells the others, whose wall clocks may differ.
void start_job_clock(comm::World& world) {
  const double left = world.is_root() ? ask_seconds_left() : 0;
  const std::string told = world.broadcast_text(cat(left));
  job_clock().set_seconds_left(std::strtod(told.c_str(), nullptr));
  if (world.is_root() && left < WalltimeClock::kForever)
    log::info("the job's time limit is ", human_seconds(std::max(0.0, left)), " away");
}

/// Collective: leaves a note of why the ranks stopped, for status and the batch script.
void note_stop(const StopCondition& stop, comm::World& world, const std::optional<stages::Heartbeat>& heartbeat) {
  const auto reason = static_cast<StopReason>(world.max(static_cast<std::int64_t>(stop.reason())));
  if (!world.is_root() || reason == StopReason::None) return;
  log::warn("stopping because of ", to_string(reason));
  heartbeat->note_stop(to_string(reason));
}

void call_stage(const Options& o, const stages::RunContext& context) {
  if (o.stage == "plan") return stages::run_plan(context);
  if (o.stage == "generate") return stages::run_generate(context);
  if (o.stage == "annotate") return stages::run_annotate(context);
  if (o.stage == "filter") return stages::run_filter(context);
  if (o.stage == "pool") return stages::run_pool(context);
  if (o.stage == "fused") return stages::run_fused(context);
  if (o.stage == "retry") return stages::run_retry(context);
  if (o.stage == "reproduce") return stages::run_reproduce(context, o.reproduce);
  if (o.stage == "train") return stages::run_train(context, training_of(context.config, o.training));
  if (o.stage == "evaluate") return stages::run_evaluate(context, training_of(context.config, o.training));
  fail(ErrorKind::Usage, {"there is no such stage", o.stage, "",
                          "use plan, generate, annotate, filter, pool, fused, retry, reproduce, train or evaluate"});
}

void run_stage(const Options& o, comm::World& world, LeaveGuard& guard) {
  const config::RunConfig config = config::read_run_config(o.config, o.overrides);
  const stages::RunDirectory dir(config.run.dir);
  const std::string label = o.training.empty() ? o.stage : o.stage + "." + o.training;
  make_folder(dir.root() / "logs");
  log::init({world.rank(), (dir.root() / "logs" / cat(label, ".rank-", world.rank(), ".log")).string(),
             level_of(config.run.log_level)});
  at::set_num_threads(static_cast<int>(config.run.threads_per_rank));
  const comm::Watchdog watchdog(world, dir.root() / "logs", label);
  start_job_clock(world);
  // Rank 0 alone looks for the stop file and writes what others watch: the ranks of a large job would flood the file
  // system with it. One rank that stops is enough.
  StopCondition stop(world.is_root() ? dir.stop_file() : Path());
  stages::RunContext context{config, dir, world, [&stop] { return stop(); }};
  std::optional<stages::Heartbeat> heartbeat;
  if (world.is_root()) {
    heartbeat.emplace(dir, label, world.size(), world.host());
    context.report_progress = [&heartbeat](const comm::ProgressView& view) { (*heartbeat)(view); };
    guard.before_leaving([&heartbeat](std::string_view reason) { heartbeat->note_stop(reason); });
  }
  try {
    call_stage(o, context);
    if (heartbeat) heartbeat->done();
  } catch (const Error& error) {
    guard.before_leaving(nullptr);
    if (error.kind() == ErrorKind::Stopped) {
      guard.leave_within(kLeaveSeconds);
      note_stop(stop, world, heartbeat);
    }
    throw;
  } catch (...) {
    guard.before_leaving(nullptr);
    throw;
  }
  guard.before_leaving(nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  install_stop_signals();
  LeaveGuard guard;  // outlives the World, whose end waits for the other ranks
  comm::World world(&argc, &argv);
  time_use().set_ready(epoch_seconds());
  CLI::App app{"One stage of a run, on all ranks.\n\nExample: mpirun -n 2 divergen-worker generate configs/mini.toml"};
  Options o;
  app.add_option("stage", o.stage, "plan, generate, annotate, filter, pool, fused, retry, reproduce, train, evaluate")
      ->required();
  app.add_option("config", o.config, "configuration file (TOML)")->required();
  app.add_option("--set", o.overrides, "section.key=value, over the file")->take_all();
  app.add_option("--item", o.reproduce.items, "of reproduce: an instance's id");
  app.add_option("--count", o.reproduce.count, "of reproduce, without --item: so many, spread over the library");
  app.add_option("--training", o.training, "of train and evaluate: which of [[trainings]]");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = world.is_root() ? app.exit(error) : error.get_exit_code();
    return code == 0 ? 0 : exit_code(ErrorKind::Usage);
  }
  int code = 0;
  try {
    run_stage(o, world, guard);
    return 0;
  } catch (const Error& error) {
    code = exit_code(error.kind());
    if (error.kind() == ErrorKind::Stopped) {
      // All ranks agreed to stop: each leaves by itself.
      if (world.is_root()) log::warn(error.what());
      return code;
    }
    log::error("rank ", world.rank(), ": ", error.what());
  } catch (const std::exception& error) {
    code = exit_code(ErrorKind::Bug);
    log::error("rank ", world.rank(), ": unexpected: ", error.what());
  }
  log::flush();
  // The other ranks may be waiting for this one.
  if (world.size() > 1) world.abort(code);
  return code;
}
