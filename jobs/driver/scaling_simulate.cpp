// Simulated points of a scaling study, from what its runs have recorded.

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/scaling_study.hpp"
#include "stages/plan/plan_input.hpp"
#include "stages/scaling/simulate.hpp"

namespace divergen::driver {
namespace {

using stages::TimeShare;

double share(const stages::TimeShares& shares, TimeShare which) { return shares[static_cast<std::size_t>(which)]; }

/// What the runs of one number of ranks have recorded.
struct Recorded {
  LogHistogram item_seconds;
  double commits = 0, commit_seconds = 0, bytes = 0, items = 0;
  stages::TimeShares shares{};
  std::int64_t nodes = 1;
  int runs = 0;
};

Recorded recorded_at(const ScalingPlan& plan, const std::vector<stages::ScalingRun>& runs, std::int64_t ranks) {
  Recorded out;
  for (const stages::ScalingRun& run : runs) {
    if (run.ranks != ranks || run.is_warm_up() || run.has_failed()) continue;
    const Path folder = point_folder(plan, ranks) / cat("r", run.repeat) / "run";
    const auto record = stages::read_record(stages::RunDirectory(folder), plan.label());
    if (!record) continue;
    out.item_seconds.merge(record->item_seconds);
    out.commits += static_cast<double>(record->item_seconds.count());
    if (const auto found = record->figures.find("phase_commit"); found != record->figures.end())
      out.commit_seconds += found->second * static_cast<double>(record->ranks.size());  // a mean over the ranks
    if (const auto bytes = record->figures.find("bytes"); bytes != record->figures.end()) out.bytes += bytes->second;
    out.items += static_cast<double>(record->items);
    for (std::size_t i = 0; i < stages::kTimeShares; ++i) out.shares[i] += run.shares[i];
    out.nodes = run.nodes;
    ++out.runs;
  }
  for (double& seconds : out.shares) seconds /= std::max(1, out.runs);
  return out;
}

/// The shape of the plan: items a shard, and how they fall to the generators.
stages::SimulationInput shape_of(const ScalingPlan& plan, std::int64_t ranks, std::int64_t ranks_per_node) {
  stages::SimulationInput input;
  input.ranks = ranks;
  input.ranks_per_node = std::min(ranks_per_node, ranks);
  input.items = plan.items_at(ranks);
  input.shard_items = plan.config.plan.shard_items;
  const auto generators = static_cast<std::int64_t>(plan.config.generators.size());
  input.items_of_generator.assign(static_cast<std::size_t>(generators), input.items / generators);
  return input;
}

/// Start, commits and bytes as they were measured.
void take_over(stages::SimulationInput& input, const Recorded& from) {
  if (from.runs == 0) return;
  // Measured on these nodes; the model counts from one node up.
  const double doublings = std::log2(static_cast<double>(std::max<std::int64_t>(1, from.nodes)));
  input.start.launch =
      std::max(0.0, share(from.shares, TimeShare::StartUp) - input.start.launch_per_doubling * doublings);
  input.start.load_seconds = share(from.shares, TimeShare::Load);
  if (from.commits > 0) {
    input.commit.seconds = from.commit_seconds / from.commits;
    input.commit.seconds_per_byte = 0;  // in the measured mean already
  }
  if (from.items > 0 && from.bytes > 0) input.commit.bytes_per_item = from.bytes / from.items;
}

stages::ItemTimes times_of(const ScalingPlan& plan, const std::string& from) {
  const Path place(from);
  if (std::filesystem::is_directory(place)) return stages::ItemTimes::of_run(stages::RunDirectory(place), plan.label());
  return std::filesystem::exists(place) ? stages::ItemTimes::of_file(place) : stages::ItemTimes::parse(from);
}

stages::SimulatedPoint point_of(const stages::SimulationResult& result, double closing) {
  stages::SimulatedPoint out;
  out.ranks = result.ranks;
  out.items = result.items;
  out.nodes = result.nodes;
  out.seconds = result.makespan + closing;
  out.work_seconds = result.makespan - result.first_item;
  out.tail_seconds = result.tail_seconds;
  const auto put = [&](TimeShare which, double part) {
    out.shares[static_cast<std::size_t>(which)] = part * result.makespan;
  };
  put(TimeShare::StartUp, result.shares.start_up);
  put(TimeShare::Load, result.shares.load);
  put(TimeShare::Steady, result.shares.steady);
  put(TimeShare::Commit, result.shares.commit);
  put(TimeShare::Input, result.shares.io_wait);
  put(TimeShare::Queue, result.shares.queue);
  put(TimeShare::Tail, result.shares.tail);
  out.shares[static_cast<std::size_t>(TimeShare::Closing)] = closing;
  return out;
}

/// The largest number of ranks with a measured run; 0: none.
std::int64_t largest_measured(const std::vector<stages::ScalingRun>& runs) {
  std::int64_t most = 0;
  for (const stages::ScalingRun& run : runs)
    if (!run.is_warm_up() && !run.has_failed()) most = std::max(most, run.ranks);
  return most;
}

}  // namespace

void simulate_points(const ScalingPlan& plan, const std::vector<std::int64_t>& ranks, const std::string& from,
                     std::int64_t ranks_per_node) {
  if (plan.stage == "train" || plan.stage == "evaluate")
    fail(ErrorKind::Usage,
         {"this stage cannot be simulated", plan.stage, "the simulator knows the stages that are shared out in shards",
          "use --stage generate or annotate"});
  const std::vector<stages::ScalingRun> runs = read_runs(plan);
  const std::int64_t most = largest_measured(runs);
  const Recorded last = recorded_at(plan, runs, most);
  if (from.empty() && last.item_seconds.empty())
    fail(ErrorKind::Usage, {"there are no times of items to simulate with", plan.out.string(),
                            "nothing has been measured in this study yet",
                            "measure some points first, or name a run or a distribution: --from RUN, --from "
                            "log-normal:2,0.3"});
  const stages::ItemTimes times =
      from.empty() ? stages::ItemTimes::recorded(last.item_seconds, cat(plan.label(), " on ", most, " ranks"))
                   : times_of(plan, from);
  std::vector<stages::SimulatedPoint> points;
  std::string basis;
  std::vector<std::int64_t> wanted = ranks;
  if (most == 0) wanted.push_back(1);  // the base, which nobody has measured
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  for (const std::int64_t p : wanted) {
    stages::SimulationInput input = shape_of(plan, p, ranks_per_node);
    input.times = times;
    take_over(input, last);
    log::info("simulating ", with_thousands(p), " ranks, ", with_thousands(input.items), " items");
    const stages::SimulationResult result = stages::simulate(input);
    points.push_back(point_of(result, share(last.shares, TimeShare::Closing)));
    basis = result.basis;
  }
  // What was measured, from its own items' times: how far the simulation is to be believed.
  std::map<std::int64_t, double> predicted;
  std::int64_t seen = 0;
  for (const stages::ScalingRun& run : stages::scaling_results({}, runs).runs) {
    if (run.ranks == seen || run.is_warm_up() || run.has_failed()) continue;
    seen = run.ranks;
    const Recorded own = recorded_at(plan, runs, run.ranks);
    if (own.item_seconds.empty()) continue;
    stages::SimulationInput input =
        shape_of(plan, run.ranks, std::max<std::int64_t>(1, run.ranks / std::max<std::int64_t>(1, run.nodes)));
    input.times = stages::ItemTimes::recorded(own.item_seconds, "");
    take_over(input, own);
    predicted[run.ranks] = stages::simulate(input).makespan + share(own.shares, TimeShare::Closing);
  }
  write_file_atomic(plan.out / "simulated.json", stages::to_text(points, predicted, basis));
}

}  // namespace divergen::driver
