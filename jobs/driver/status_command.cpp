// divergen status RUN: which stages are done, how far the others are, and what Slurm says of the jobs.

#include <unistd.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "driver/slurm_queue.hpp"
#include "driver/steps.hpp"
#include "stages/common/run_directory.hpp"
#include "stages/common/watch.hpp"

namespace divergen::driver {
namespace {

using nlohmann::json;

struct Options {
  std::string run, brief;
  bool json = false, watch = false, no_queue = false;
  double interval = 10;
};

// Slurm's controller has many to answer: a watching status asks it no more often than this, whatever the interval.
constexpr double kQueueSeconds = 30;
// A stage at work writes its progress every few seconds.
constexpr double kSilentSeconds = 60;

std::string newest_checkpoint(const Path& training) {
  std::string newest;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(training / "checkpoints", ignored))
    if (entry.path().extension() != ".part") newest = std::max(newest, entry.path().filename().string());
  return newest;
}

/// Labels that the configuration asks for, in their order; what else has left a trace comes with them.
std::vector<std::string> expected_stages(const stages::RunDirectory& dir) {
  std::vector<std::string> out;
  try {
    for (const Step& step : steps_of(config::read_run_config(dir.config()), "run", "")) {
      out.push_back(step.label());
      if (step.stage == "fused") out.insert(out.end(), {"filter", "pool"});  // its last passes have their own records
    }
  } catch (const Error&) {
    out = {"plan", "generate", "annotate", "filter", "pool"};  // of another version: what is there still shows
  }
  for (const std::string& name : stages::recorded_stages(dir))
    if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
  return out;
}

json progress_json(const stages::StageProgress& p, double now) {
  const double left = p.view.rate > 0 ? static_cast<double>(p.view.total - p.view.done) / p.view.rate : 0;
  return {{"part", p.view.stage},
          {"done", p.view.done},
          {"total", p.view.total},
          {"rejected", p.view.rejected},
          {"rate", p.view.rate},
          {"slowest_rank", p.view.slowest_rank},
          {"slowest_rate", p.view.slowest_rate},
          {"median_rate", p.view.median_rate},
          {"seconds_left", left},
          {"ranks", p.ranks},
          {"host", p.host},
          {"job", p.job},
          {"restarts", p.restarts},
          {"age", now - p.time},
          {"walltime_left", p.view.walltime_left},
          {"finished", p.view.finished}};
}

/// What each rank of the stage's last start did, for those who look for slow or broken nodes.
json ranks_json(const stages::StageRecord& record) {
  json out = json::array();
  const auto straggler = stages::straggler_of(record);
  for (const stages::RankShare& share : record.ranks) {
    json one{{"rank", share.rank},   {"host", share.host},         {"device", share.device},
             {"items", share.items}, {"busy", share.busy_seconds}, {"wait", share.wait_seconds}};
    if (!share.quarantined.empty()) one["quarantined"] = share.quarantined;
    if (straggler && straggler->share == &share) one["times_the_median"] = straggler->times;
    out.push_back(std::move(one));
  }
  return out;
}

/// Everything, as one object.
json look(const stages::RunDirectory& dir, const std::optional<Submission>& submission,
          const std::optional<std::multimap<std::string, QueuedJob>>& queue) {
  json out{
      {"run", dir.root().string()}, {"stages", json::object()}, {"shards", json::object()}, {"open", json::array()}};
  const double now = epoch_seconds();
  const auto progress = stages::read_progress(dir);
  for (const auto& record : stages::read_records(dir))
    out["stages"][record.stage] = {{"seconds", record.seconds},
                                   {"items", record.items},
                                   {"rejected", record.rejected},
                                   {"ranks", ranks_json(record)}};
  for (const std::string& label : expected_stages(dir)) {
    if (out["stages"].contains(label)) continue;
    json open{{"stage", label}, {"committed", stages::committed_units(dir, label)}};
    if (const auto found = progress.find(label); found != progress.end())
      open["progress"] = progress_json(found->second, now);
    if (const std::string stop = stages::read_stop(dir, label); !stop.empty()) open["stopped_by"] = stop;
    if (label.starts_with("train."))
      if (const std::string newest = newest_checkpoint(dir.training(label.substr(6))); !newest.empty())
        open["checkpoint"] = newest;
    out["open"].push_back(open);
  }
  for (const char* stage : {"generate", "annotate", "fused", "filter", "pool"}) {
    const auto units = stages::committed_units(dir, stage);
    out["shards"][stage] = units - (out["stages"].contains(stage) ? 1 : 0);
  }
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(dir.root() / "train", ignored))
    out["checkpoints"][entry.path().filename().string()] = newest_checkpoint(entry.path());
  out["report"] = std::filesystem::exists(dir.report());
  if (!submission) return out;
  out["submission"] = submission->id;
  out["jobs"] = json::array();
  for (const SubmittedJob& job : submission->jobs) out["jobs"].push_back({{"label", job.label}, {"job", job.id}});
  if (!queue) return out;
  out["queue"] = json::array();
  for (const SubmittedJob& job : submission->jobs)
    for (const auto& [label, q] : *queue)
      if (q.id.substr(0, q.id.find_first_of("_+")) == job.id)
        out["queue"].push_back({{"label", label},
                                {"job", q.id},
                                {"state", q.state},
                                {"reason", q.reason},
                                {"elapsed", q.elapsed},
                                {"left", q.left},
                                {"nodes", q.nodes}});
  return out;
}

std::string column(const std::string& text, std::size_t width) {
  return text + std::string(text.size() < width ? width - text.size() : 1, ' ');
}

std::string open_text(const json& open) {
  std::string line;
  if (open.contains("progress")) {
    const json& p = open["progress"];
    const auto done = p["done"].get<std::int64_t>(), total = p["total"].get<std::int64_t>();
    line = cat(with_thousands(done), " of ", with_thousands(total));
    const bool at_work = p["age"] < kSilentSeconds && !open.contains("stopped_by");
    if (at_work && p["rate"] > 0)
      line += cat(", ", fixed(p["rate"], 2), "/s, ", human_seconds(p["seconds_left"]), " left");
    if (at_work && p["walltime_left"] > 0)
      line += p["walltime_left"].get<double>() > p["seconds_left"].get<double>() ? ", fits into the job"
                                                                                 : ", needs another job";
    line += cat(", ", p["ranks"].get<int>(), " ranks");
    const double slowest = p["slowest_rate"], median = p["median_rate"];
    if (at_work && slowest > 0 && median > 1.1 * slowest)
      line += cat(", slowest rank ", p["slowest_rank"].get<int>(), ": ", fixed(median / slowest, 1),
                  " times slower than the median");
    if (p["restarts"] > 0) line += cat(", restart ", p["restarts"].get<std::int64_t>());
    if (!at_work) line += cat(", silent for ", human_seconds(p["age"]));
  } else if (open["committed"] > 0) {
    line = cat(open["committed"].get<std::int64_t>(), " committed");
  }
  if (open.contains("checkpoint"))
    line += cat(line.empty() ? "" : ", ", "checkpoint ", open["checkpoint"].get<std::string>());
  if (open.contains("stopped_by"))
    line += cat(line.empty() ? "" : ", ", "stopped because of ", open["stopped_by"].get<std::string>());
  return line;
}

/// A line for each rank of a stage that many shared; of more than kMostLines those alone that stand out.
std::string ranks_text(const json& ranks) {
  constexpr std::size_t kMostLines = 8;
  if (ranks.size() < 2 || ranks[0]["wait"] == 0) return "";  // not shared, or by an earlier version
  std::string out;
  for (const json& r : ranks) {
    const bool stands_out = r.contains("quarantined") || r.contains("times_the_median");
    if (ranks.size() > kMostLines && !stands_out) continue;
    const double busy = r["busy"], wait = r["wait"];
    const std::string device = r["device"];
    out += cat("  rank ", r["rank"].get<int>(), " on ", r["host"].get<std::string>(),
               device.empty() ? "" : cat(" (", device, ")"), ": ", with_thousands(r["items"]), " items, busy ",
               fixed(busy + wait > 0 ? 100 * busy / (busy + wait) : 0, 0), " %, waited ", human_seconds(wait));
    if (r.contains("times_the_median") && r["times_the_median"] > 1.1)
      out += cat(", ", fixed(r["times_the_median"], 2), " times the median's time for an item");
    if (r.contains("quarantined")) out += cat(", QUARANTINED: ", r["quarantined"].get<std::string>());
    out += '\n';
  }
  return out;
}

void print(const json& facts, std::ostream& out) {
  constexpr std::size_t kName = 24, kState = 10;
  std::map<std::string, std::string> queued;
  if (facts.contains("queue"))
    for (const json& q : facts["queue"]) {
      std::string& text = queued[q["label"]];
      const std::string state = q["state"], reason = q["reason"];
      text += cat(text.empty() ? "job " : "; job ", q["job"].get<std::string>(), " ", state,
                  reason == "None" ? "" : cat(" (", reason, ")"),
                  state == "RUNNING"
                      ? cat(" for ", q["elapsed"].get<std::string>(), ", ", q["left"].get<std::string>(), " left")
                      : "");
    }
  const auto job = [&](const std::string& label) {
    auto found = queued.find(label);
    if (found == queued.end()) found = queued.find(label.substr(0, label.find('.')));  // an array
    return found == queued.end() ? "" : "   " + found->second;
  };
  for (const auto& [name, s] : facts["stages"].items())
    out << column(name, kName) << column("done", kState) << with_thousands(s["items"]) << " items in "
        << human_seconds(s["seconds"]) << '\n'
        << ranks_text(s["ranks"]);
  for (const json& open : facts["open"]) {
    const std::string name = open["stage"];
    const std::string text = open_text(open);
    out << column(name, kName) << column(text.empty() ? "waiting" : "open", kState) << text << job(name) << '\n';
  }
  out << column("report", kName) << column(facts["report"].get<bool>() ? "there" : "waiting", kState) << job("report")
      << '\n';
}

/// For the batch scripts: one line of a stage.
int brief(const stages::RunDirectory& dir, const std::string& stage) {
  std::cout << "units=" << stages::committed_units(dir, stage) << " stop=" << stages::read_stop(dir, stage) << '\n';
  return 0;
}

/// A finished run's counts, or an open one's now; Prometheus reads the same.
void refresh_metrics(const stages::RunDirectory& dir) {
  try {
    stages::write_prometheus(dir);
  } catch (const Error& error) {
    log::debug("metrics.prom is not refreshed: ", error.what());  // somebody else's run
  }
}

int status(const Options& o) {
  const stages::RunDirectory dir(o.run);
  if (!o.brief.empty()) return brief(dir, o.brief);
  if (!std::filesystem::exists(dir.config()))
    fail(ErrorKind::Usage,
         {"this is not a run directory", o.run, "it holds no config.toml", "name the folder of a run"});
  std::optional<std::multimap<std::string, QueuedJob>> queue;
  double asked = 0;
  for (;;) {
    const auto submission = read_submission(dir);
    if (submission && !o.no_queue && epoch_seconds() - asked > kQueueSeconds) {
      queue = ask_queue(*submission);
      asked = epoch_seconds();
    }
    const json facts = look(dir, submission, queue);
    refresh_metrics(dir);
    if (o.json) {
      std::cout << facts.dump(o.watch ? -1 : 2) << std::endl;
    } else {
      if (o.watch && ::isatty(STDOUT_FILENO) != 0) std::cout << "\033[H\033[J";
      print(facts, std::cout);
      std::cout.flush();
    }
    const bool is_over = facts["open"].empty() && facts["report"].get<bool>();
    if (!o.watch || is_over || !std::cout) return 0;
    std::this_thread::sleep_for(std::chrono::duration<double>(o.interval));
    if (!o.json && ::isatty(STDOUT_FILENO) == 0) std::cout << '\n';
  }
}

}  // namespace

void add_status_command(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "status",
      "which stages of a run are done, and how far the others are\n\nExample: divergen status runs/mini --watch");
  auto o = std::make_shared<Options>();
  command->add_option("run", o->run, "run directory")->required();
  command->add_flag("--json", o->json, "machine-readable, on stdout; with --watch one line each time");
  command->add_flag("--watch", o->watch, "again and again, until the report is there");
  command->add_option("--interval", o->interval, "seconds between two looks")->check(CLI::Range(0.1, 86400.0));
  command->add_flag("--no-queue", o->no_queue, "read the run directory alone; do not ask squeue");
  command->add_option("--brief", o->brief, "of this stage: what is committed, and why it stopped")->group("");
  command->callback([o, &action] { action = [o] { return status(*o); }; });
}

}  // namespace divergen::driver
