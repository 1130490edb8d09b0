#include "stages/common/watch.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

Path progress_file(const RunDirectory& dir, const std::string& stage, const char* extension) {
  return dir.root() / "progress" / (stage + extension);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

json to_json(const StageProgress& p) {
  return {{"stage", p.stage},
          {"part", p.view.stage},
          {"done", p.view.done},
          {"total", p.view.total},
          {"rejected", p.view.rejected},
          {"rate", p.view.rate},
          {"slowest_rank", p.view.slowest_rank},
          {"slowest_rate", p.view.slowest_rate},
          {"median_rate", p.view.median_rate},
          {"seconds", p.view.seconds},
          {"walltime_left", p.view.walltime_left},
          {"finished", p.view.finished},
          {"time", p.time},
          {"ranks", p.ranks},
          {"host", p.host},
          {"job", p.job},
          {"restarts", p.restarts}};
}

StageProgress from_json(const json& from) {
  StageProgress p;
  p.stage = from.at("stage");
  p.view.stage = from.at("part");
  p.view.done = from.at("done");
  p.view.total = from.at("total");
  p.view.rejected = from.at("rejected");
  p.view.rate = from.at("rate");
  p.view.slowest_rank = from.at("slowest_rank");
  p.view.slowest_rate = from.at("slowest_rate");
  p.view.median_rate = from.value("median_rate", 0.0);
  p.view.seconds = from.at("seconds");
  p.view.walltime_left = from.at("walltime_left");
  p.view.finished = from.at("finished");
  p.time = from.at("time");
  p.ranks = from.at("ranks");
  p.host = from.at("host");
  p.job = from.at("job");
  p.restarts = from.at("restarts");
  return p;
}

std::int64_t count_files(const Path& folder, std::string_view prefix) {
  std::int64_t count = 0;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent)) {
    const std::string name = entry.path().filename().string();
    count += name.starts_with(prefix) && name.ends_with(".h5");
  }
  return count;
}

/// Shards of the stage and of its parts, "filter.scores" of "filter".
std::int64_t count_shards(const RunDirectory& dir, const std::string& stage) {
  std::int64_t count = 0;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(dir.root(), absent)) {
    const std::string name = entry.path().filename().string();
    if (name == stage || name.starts_with(stage + ".")) count += count_files(entry.path(), "shard-");
  }
  return count;
}

std::int64_t newest_iteration(const Path& checkpoints) {
  std::int64_t newest = 0;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints, absent)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("iter-") || name.ends_with(".part")) continue;
    std::int64_t iteration = 0;
    std::from_chars(name.data() + 5, name.data() + name.size(), iteration);
    newest = std::max(newest, iteration);
  }
  return newest;
}

/// Label values of Prometheus escape backslashes, quotes and line ends.
std::string label_value(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

/// One family of numbers: its head once, then a line for each stage.
class Family {
 public:
  Family(std::string& out, const char* name, const char* help) : out_(out), name_(name) {
    head_ = cat("# HELP ", name, " ", help, "\n# TYPE ", name, " gauge\n");
  }
  void add(const std::string& stage, double value, const std::string& more = "") {
    out_ += std::exchange(head_, "");
    // Whole numbers without a fraction, others with the fewest digits that read back as the same.
    constexpr double kExact = 9e15;
    const bool is_whole = std::trunc(value) == value && std::abs(value) < kExact;
    const json number = is_whole ? json(static_cast<std::int64_t>(value)) : json(value);
    out_ += cat(name_, "{stage=\"", label_value(stage), "\"", more, "} ", number.dump(), "\n");
  }

 private:
  std::string& out_;
  const char* name_;
  std::string head_;
};

std::vector<StageRecord> whole_records(const RunDirectory& dir) {
  std::vector<StageRecord> records;
  for (const std::string& name : recorded_stages(dir)) {
    try {
      if (auto record = read_record(dir, name)) records.push_back(std::move(*record));
    } catch (const Error&) {
      continue;  // being replaced, or damaged: its stage says so when it runs
    }
  }
  return records;
}

}  // namespace

Heartbeat::Heartbeat(RunDirectory dir, std::string stage, int ranks, std::string host) : dir_(std::move(dir)) {
  progress_.stage = std::move(stage);
  progress_.ranks = ranks;
  progress_.host = std::move(host);
  progress_.job = environment("SLURM_JOB_ID");
  progress_.restarts = std::atoll(environment("SLURM_RESTART_COUNT").c_str());
  remove_quietly(progress_file(dir_, progress_.stage, ".stop"));
  try {
    make_folder(dir_.root() / "progress");
    write_file_atomic(progress_file(dir_, progress_.stage, ".begun"), "");
  } catch (const Error& error) {
    log::debug("the beginning is not noted: ", error.what());
  }
}

void Heartbeat::operator()(const comm::ProgressView& view) {
  progress_.view = view;
  progress_.time = epoch_seconds();
  attempt([this] {
    make_folder(dir_.root() / "progress");
    write_file_atomic(progress_file(dir_, progress_.stage, ".json"), to_json(progress_).dump(1) + "\n");
    write_prometheus(dir_);
  });
}

void Heartbeat::done() {
  attempt([this] { write_prometheus(dir_); });
}

void Heartbeat::attempt(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    if (!std::exchange(warned_, true)) log::warn("status will not be up to date: ", error.what());
  }
}

void Heartbeat::note_stop(std::string_view reason) const {
  try {
    make_folder(dir_.root() / "progress");
    write_file_atomic(progress_file(dir_, progress_.stage, ".stop"), cat(reason, "\n"));
  } catch (const Error& error) {
    log::debug("the reason of the stop is not noted: ", error.what());
  }
}

std::map<std::string, StageProgress> read_progress(const RunDirectory& dir) {
  std::map<std::string, StageProgress> out;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(dir.root() / "progress", absent)) {
    if (entry.path().extension() != ".json") continue;
    try {
      StageProgress progress = from_json(json::parse(read_file(entry.path())));
      const std::string stage = progress.stage;
      out.emplace(stage, std::move(progress));
    } catch (const json::exception&) {
      continue;
    } catch (const Error&) {
      continue;
    }
  }
  return out;
}

std::string read_stop(const RunDirectory& dir, const std::string& stage) {
  const Path file = progress_file(dir, stage, ".stop");
  std::error_code absent;
  if (!std::filesystem::exists(file, absent)) return "";
  std::string text = read_file(file);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::int64_t committed_units(const RunDirectory& dir, const std::string& stage) {
  std::error_code absent;
  const std::int64_t done = std::filesystem::exists(dir.record(stage), absent) ? 1 : 0;
  const std::size_t dot = stage.find('.');
  const std::string kind = stage.substr(0, dot), name = dot == std::string::npos ? "" : stage.substr(dot + 1);
  if (kind == "train") return done + newest_iteration(dir.training(name) / "checkpoints");
  if (kind == "evaluate") return done + count_files(dir.evaluation(name) / "parts", "part-");
  std::int64_t units = done + count_shards(dir, stage);
  // A launch of these goes on with passes that have their own folders.
  if (kind == "fused" || kind == "retry")
    for (const char* pass : {"filter", "pool"}) units += count_shards(dir, pass);
  if (kind == "retry")
    for (const char* pass : {"generate", "annotate", "fused"}) units += count_shards(dir, pass);
  return units;
}

std::string prometheus_text(const RunDirectory& dir) {
  const auto records = whole_records(dir);
  const auto progress = read_progress(dir);
  std::string out;
  Family complete(out, "divergen_stage_complete", "1 when the stage's record stands.");
  for (const auto& r : records) complete.add(r.stage, 1);
  for (const auto& [stage, p] : progress)
    if (std::none_of(records.begin(), records.end(), [&](const auto& r) { return r.stage == stage; }))
      complete.add(stage, 0);
  Family items(out, "divergen_stage_items", "Items that a complete stage handled.");
  for (const auto& r : records) items.add(r.stage, static_cast<double>(r.items));
  Family seconds(out, "divergen_stage_seconds", "Wall-clock seconds of a complete stage over its starts.");
  for (const auto& r : records) seconds.add(r.stage, r.seconds);
  Family rejected(out, "divergen_stage_rejected", "Items that a complete stage rejected, by reason.");
  for (const auto& r : records)
    for (const auto& [reason, count] : r.rejected)
      rejected.add(r.stage, static_cast<double>(count), cat(",reason=\"", label_value(reason), "\""));
  const auto each = [&](const char* name, const char* help, const auto& value) {
    Family family(out, name, help);
    for (const auto& [stage, p] : progress) family.add(stage, static_cast<double>(value(p)));
  };
  each("divergen_progress_done", "Items done, earlier starts included.", [](const auto& p) { return p.view.done; });
  each("divergen_progress_total", "Items of the stage.", [](const auto& p) { return p.view.total; });
  each("divergen_progress_rate", "Items a second of all ranks together.", [](const auto& p) { return p.view.rate; });
  each("divergen_progress_ranks", "MPI ranks of the last start.", [](const auto& p) { return p.ranks; });
  each("divergen_progress_restarts", "SLURM_RESTART_COUNT of the last start.",
       [](const auto& p) { return p.restarts; });
  each("divergen_progress_walltime_left_seconds", "Time that the job had left; 0: unknown.",
       [](const auto& p) { return p.view.walltime_left; });
  each("divergen_progress_time_seconds", "When the progress was written, seconds since 1970.",
       [](const auto& p) { return p.time; });
  return out;
}

void write_prometheus(const RunDirectory& dir) { write_file_atomic(dir.root() / "metrics.prom", prometheus_text(dir)); }

}  // namespace divergen::stages
