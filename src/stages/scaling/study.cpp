#include "stages/scaling/study.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <ctime>
#include <set>
#include <tuple>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

double& share(TimeShares& shares, TimeShare which) { return shares[static_cast<std::size_t>(which)]; }

json to_json(const TimeShares& shares) {
  json out = json::object();
  for (std::size_t i = 0; i < kTimeShares; ++i) out[kTimeShareNames[i].key] = shares[i];
  return out;
}

TimeShares shares_from(const json& from) {
  TimeShares out{};
  for (std::size_t i = 0; i < kTimeShares; ++i) out[i] = from.at(kTimeShareNames[i].key);
  return out;
}

json to_json(const ScalingRun& r) {
  return {{"ranks", r.ranks},
          {"items", r.items},
          {"repeat", r.repeat},
          {"begun", r.begun},
          {"ended", r.ended},
          {"exit_code", r.exit_code},
          {"shares", to_json(r.shares)},
          {"work_seconds", r.work_seconds},
          {"tail_seconds", r.tail_seconds},
          {"comm_overlap", r.comm_overlap},
          {"nodes", r.nodes},
          {"results", r.results},
          {"losses", r.losses}};
}

json to_json(const Spread& s) { return {{"median", s.median}, {"low", s.low}, {"high", s.high}}; }

json to_json(const ScalingStudy& s) {
  return {{"stage", s.stage},
          {"mode", s.mode},
          {"title", s.title},
          {"unit", s.unit},
          {"entity", s.entity},
          {"hardware", s.hardware},
          {"date", s.date},
          {"config_hash", s.config_hash},
          {"config_file", s.config_file},
          {"repeats", s.repeats},
          {"facts", s.facts}};
}

json to_json(const ScalingPoint& p) {
  return {{"ranks", p.ranks},
          {"items", p.items},
          {"nodes", p.nodes},
          {"runs", p.runs},
          {"failed", p.failed},
          {"simulated", p.is_simulated},
          {"seconds", to_json(p.seconds)},
          {"items_per_second", to_json(p.rate)},
          {"work_items_per_second", to_json(p.work_rate)},
          {"speed_up", to_json(p.speed_up)},
          {"efficiency", to_json(p.efficiency)},
          {"work_efficiency", p.work_efficiency},
          {"warm_up_seconds", p.warm_up_seconds},
          {"tail_seconds", p.tail_seconds},
          {"comm_overlap", p.comm_overlap},
          {"predicted_seconds", p.predicted_seconds},
          {"shares", to_json(p.shares)}};
}

[[noreturn]] void damaged(const std::string& source, const char* why) {
  fail(ErrorKind::Data, {"a file of a scaling study is damaged", source, why,
                         "remove it: what it held is measured again by the same command"});
}

ScalingPoint point_of(std::int64_t ranks, const std::vector<const ScalingRun*>& runs) {
  ScalingPoint point;
  point.ranks = ranks;
  std::vector<double> seconds, rates, work_rates, tails, overlaps;
  for (const ScalingRun* run : runs) {
    if (run->has_failed()) {
      ++point.failed;
      continue;
    }
    point.items = run->items;
    point.nodes = run->nodes;
    if (run->is_warm_up()) {
      point.warm_up_seconds = run->seconds();
      continue;
    }
    ++point.runs;
    const auto items = static_cast<double>(run->items);
    seconds.push_back(run->seconds());
    rates.push_back(items / std::max(run->seconds(), 1e-9));
    work_rates.push_back(items / std::max(run->work_seconds, 1e-9));
    tails.push_back(run->tail_seconds);
    overlaps.push_back(run->comm_overlap);
    for (std::size_t i = 0; i < kTimeShares; ++i) point.shares[i] += run->shares[i];
  }
  if (point.runs == 0) return point;
  point.seconds = spread_of(seconds);
  point.rate = spread_of(rates);
  point.work_rate = spread_of(work_rates);
  point.tail_seconds = spread_of(tails).median;
  point.comm_overlap = spread_of(overlaps).median;
  for (double& s : point.shares) s /= point.runs;
  return point;
}

ScalingPoint point_of(const SimulatedPoint& from) {
  ScalingPoint point;
  point.is_simulated = true;
  point.ranks = from.ranks;
  point.items = from.items;
  point.nodes = from.nodes;
  const auto same = [](double value) { return Spread{value, value, value}; };
  const auto items = static_cast<double>(from.items);
  point.seconds = same(from.seconds);
  point.rate = same(items / std::max(from.seconds, 1e-9));
  point.work_rate = same(items / std::max(from.work_seconds, 1e-9));
  point.tail_seconds = from.tail_seconds;
  point.shares = from.shares;
  return point;
}

/// Speed-up and efficiency of rates against a base.
void compare(ScalingPoint& point, const ScalingPoint& base) {
  if (base.rate.median <= 0 || point.rate.median <= 0) return;
  const double more = static_cast<double>(point.ranks) / static_cast<double>(base.ranks);
  const auto over = [](const Spread& s, double by) { return Spread{s.median / by, s.low / by, s.high / by}; };
  point.speed_up = over(point.rate, base.rate.median / static_cast<double>(base.ranks));
  point.efficiency = over(point.rate, base.rate.median * more);
  point.work_efficiency = point.work_rate.median / (base.work_rate.median * more);
}

std::string slug(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) || c == '.') out += static_cast<char>(std::tolower(u));
    else if (!out.empty() && out.back() != '-') out += '-';
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out.empty() ? "unnamed" : out;
}

std::string iso_time(double epoch) {
  const auto time = static_cast<std::time_t>(epoch);
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string csv_row(const ScalingResults& r, std::int64_t ranks, std::int64_t nodes, int repeat, const char* kind,
                    std::int64_t items, int code, double begun, double seconds, double work, double tail,
                    double overlap, const TimeShares& shares) {
  const bool is_measured = code == 0;
  const auto number = [&](double value, int digits) { return is_measured ? fixed(value, digits) : std::string(); };
  std::string row = cat(r.study.stage, ',', r.study.mode, ',', kind, ',', ranks, ',', nodes, ',', repeat, ',', items,
                        ',', code, ',', begun > 0 ? iso_time(begun) : "", ',', number(seconds, 4), ',',
                        number(static_cast<double>(items) / std::max(seconds, 1e-9), 5), ',', number(work, 4), ',',
                        number(tail, 4), ',', number(overlap, 4));
  for (const double s : shares) row += cat(',', number(s, 4));
  return row + '\n';
}

}  // namespace

TimeShares time_shares(const StageRecord& record, double begun, double ended) {
  const auto figure = [&](const char* name) {
    const auto found = record.figures.find(name);
    return found == record.figures.end() ? 0.0 : found->second;
  };
  TimeShares out{};
  if (figure("phase_last") <= 0) return out;
  share(out, TimeShare::StartUp) = std::max(0.0, figure("phase_ready") - begun);
  share(out, TimeShare::Load) = figure("phase_load");
  share(out, TimeShare::Steady) = figure("phase_steady");
  share(out, TimeShare::Input) = figure("phase_wait");
  share(out, TimeShare::Comm) = figure("phase_comm");
  share(out, TimeShare::Commit) = figure("phase_commit");
  share(out, TimeShare::Queue) = figure("phase_queue");
  share(out, TimeShare::Tail) = figure("phase_tail");
  share(out, TimeShare::Closing) = std::max(0.0, ended - figure("phase_last"));
  return out;
}

std::string to_text(const ScalingRun& run) { return to_json(run).dump(); }

ScalingRun scaling_run_of(const std::string& text, const std::string& source) {
  try {
    const json from = json::parse(text);
    ScalingRun r;
    r.ranks = from.at("ranks");
    r.items = from.at("items");
    r.repeat = from.at("repeat");
    r.begun = from.at("begun");
    r.ended = from.at("ended");
    r.exit_code = from.at("exit_code");
    r.shares = shares_from(from.at("shares"));
    r.work_seconds = from.at("work_seconds");
    r.tail_seconds = from.at("tail_seconds");
    r.comm_overlap = from.at("comm_overlap");
    r.nodes = from.at("nodes");
    r.results = from.at("results");
    r.losses = from.at("losses").get<decltype(r.losses)>();
    return r;
  } catch (const json::exception& problem) {
    damaged(source, problem.what());
  }
}

std::string to_text(const ScalingStudy& study) { return to_json(study).dump(1); }

ScalingStudy scaling_study_of(const std::string& text, const std::string& source) {
  try {
    const json from = json::parse(text);
    ScalingStudy s;
    s.stage = from.at("stage");
    s.mode = from.at("mode");
    s.title = from.at("title");
    s.unit = from.at("unit");
    s.hardware = from.at("hardware");
    s.entity = from.at("entity");
    s.date = from.at("date");
    s.config_hash = from.at("config_hash");
    s.config_file = from.at("config_file");
    s.repeats = from.at("repeats");
    s.facts = from.at("facts").get<std::map<std::string, std::string>>();
    return s;
  } catch (const json::exception& problem) {
    damaged(source, problem.what());
  }
}

std::string to_text(const std::vector<SimulatedPoint>& points, const std::map<std::int64_t, double>& predicted,
                    const std::string& basis) {
  json list = json::array(), seconds = json::array();
  for (const SimulatedPoint& p : points)
    list.push_back({{"ranks", p.ranks},
                    {"items", p.items},
                    {"nodes", p.nodes},
                    {"seconds", p.seconds},
                    {"work_seconds", p.work_seconds},
                    {"tail_seconds", p.tail_seconds},
                    {"shares", to_json(p.shares)}});
  for (const auto& [ranks, value] : predicted) seconds.push_back({ranks, value});
  return json{{"points", list}, {"predicted_seconds", seconds}, {"basis", basis}}.dump(1) + "\n";
}

std::string read_simulated(const std::string& text, const std::string& source, std::vector<SimulatedPoint>& points,
                           std::map<std::int64_t, double>& predicted) {
  try {
    const json from = json::parse(text);
    for (const json& p : from.at("points"))
      points.push_back({p.at("ranks"), p.at("items"), p.at("nodes"), p.at("seconds"), p.at("work_seconds"),
                        p.at("tail_seconds"), shares_from(p.at("shares"))});
    for (const json& entry : from.at("predicted_seconds")) predicted[entry.at(0)] = entry.at(1);
    return from.at("basis");
  } catch (const json::exception& problem) {
    damaged(source, problem.what());
  }
}

Spread spread_of(std::vector<double> values) {
  DIVERGEN_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

ScalingResults scaling_results(ScalingStudy study, std::vector<ScalingRun> runs,
                               const std::vector<SimulatedPoint>& simulated,
                               const std::map<std::int64_t, double>& predicted) {
  ScalingResults out;
  out.study = std::move(study);
  std::stable_sort(runs.begin(), runs.end(), [](const ScalingRun& a, const ScalingRun& b) {
    return std::tuple(a.ranks, a.repeat, a.begun) < std::tuple(b.ranks, b.repeat, b.begun);
  });
  out.runs = std::move(runs);
  std::map<std::int64_t, std::vector<const ScalingRun*>> by_ranks;
  for (const ScalingRun& run : out.runs) {
    by_ranks[run.ranks].push_back(&run);
    out.failed += run.has_failed() ? 1 : 0;
  }
  for (const auto& [ranks, own] : by_ranks) {
    out.points.push_back(point_of(ranks, own));
    const auto found = predicted.find(ranks);
    if (found != predicted.end()) out.points.back().predicted_seconds = found->second;
  }
  out.measured = out.points.size();
  ScalingPoint base;
  for (const ScalingPoint& point : out.points)
    if (point.runs > 0 && out.base_ranks == 0) {
      base = point;
      out.base_ranks = point.ranks;
    }
  for (const SimulatedPoint& point : simulated) out.points.push_back(point_of(point));
  std::sort(out.points.begin() + static_cast<std::ptrdiff_t>(out.measured), out.points.end(),
            [](const ScalingPoint& a, const ScalingPoint& b) { return a.ranks < b.ranks; });
  if (out.base_ranks == 0 && !out.points.empty() && out.points.back().is_simulated) {  // nothing was measured
    base = out.points[out.measured];
    out.base_ranks = base.ranks;
  }
  if (out.base_ranks > 0)
    for (ScalingPoint& point : out.points) compare(point, base);
  return out;
}

std::string scaling_csv(const ScalingResults& results) {
  std::string out =
      "stage,mode,kind,ranks,nodes,repeat,items,exit_code,begun,seconds,items_per_second,work_seconds,"
      "last_5_percent_seconds,comm_overlap";
  for (const auto& name : kTimeShareNames) out += cat(',', name.key, "_seconds");
  out += '\n';
  for (const ScalingRun& r : results.runs)
    out +=
        csv_row(results, r.ranks, r.nodes, r.repeat,
                r.has_failed()   ? "failed"
                : r.is_warm_up() ? "warm-up"
                                 : "measured",
                r.items, r.exit_code, r.begun, r.seconds(), r.work_seconds, r.tail_seconds, r.comm_overlap, r.shares);
  for (const ScalingPoint& p : results.points)
    if (p.is_simulated)
      out += csv_row(results, p.ranks, p.nodes, 0, "simulated", p.items, 0, 0, p.seconds.median,
                     static_cast<double>(p.items) / std::max(p.work_rate.median, 1e-9), p.tail_seconds, 0, p.shares);
  return out;
}

std::string scaling_json(const ScalingResults& results) {
  json points = json::array(), runs = json::array();
  for (const ScalingPoint& p : results.points) points.push_back(to_json(p));
  for (const ScalingRun& r : results.runs) runs.push_back(to_json(r));
  return json{{"schema", 1},
              {"study", to_json(results.study)},
              {"base_ranks", results.base_ranks},
              {"failed_runs", results.failed},
              {"simulated_basis", results.simulated_basis},
              {"points", points},
              {"runs", runs}}
             .dump(1) +
         "\n";
}

std::string scaling_file_name(const ScalingStudy& study) {
  return cat("scaling-", slug(study.stage), "-", study.mode, "_", slug(study.hardware), "_", study.date, "_",
             slug(study.entity));
}

}  // namespace divergen::stages
