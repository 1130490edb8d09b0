#pragma once
// A scaling study: the same stage on several numbers of ranks, each several times (reference/reliability.md §7).
//
//   strong scaling   the items are fixed          E = T_1 / (p T_p)
//   weak scaling     the items of a rank are      E = T_1 / T_p
//
// Both are one formula of rates: with r_p items a second on p ranks, the speed-up is r_p / r_1 and E that over p. Where
// nothing was measured on one rank, the smallest number p0 takes its place, and the results say so.

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "stages/common/run_directory.hpp"

namespace divergen::stages {

/// Where the time of a rank goes, in the order in which it is drawn; all together are the time from the launch to the
/// end. Seconds, means over the ranks.
enum class TimeShare : std::size_t { StartUp, Load, Steady, Input, Comm, Commit, Queue, Tail, Closing };
inline constexpr std::size_t kTimeShares = 9;
struct TimeShareName {
  const char *key, *text;
};
inline constexpr std::array<TimeShareName, kTimeShares> kTimeShareNames{
    {{"start_up", "start-up: launch and MPI"},
     {"load", "load: models, data, what is there already"},
     {"steady", "steady state: the work itself"},
     {"io_wait", "waiting for input"},
     {"comm", "waiting for other ranks"},
     {"commit", "commit: writing, checking, publishing"},
     {"queue", "waiting for work"},
     {"tail", "tail: done, others are not"},
     {"closing", "closing: totals, records, end of MPI"}}};
using TimeShares = std::array<double, kTimeShares>;

/// From the phases in the record's figures (common/rank_phases.hpp); all 0 without them. `begun`, `ended`: when the
/// launcher was started and had ended, seconds since 1970.
TimeShares time_shares(const StageRecord& record, double begun, double ended);

/// One start of the stage.
struct ScalingRun {
  std::int64_t ranks = 0, items = 0;
  int repeat = 0;  // 0: the warm-up, which counts for nothing
  double begun = 0, ended = 0;
  int exit_code = 0;  // not 0: the run failed; what follows is empty then
  TimeShares shares{};
  double work_seconds = 0;  // from the first claim to the last commit
  double tail_seconds = 0;  // in which the last 5 % of the items were committed; 0: not recorded
  double comm_overlap = 0;  // of gradients with backward; 0: not recorded
  std::int64_t nodes = 0;
  std::string results;                                  // hash of what was made; "": not comparable
  std::vector<std::pair<std::int64_t, double>> losses;  // of a training: (samples seen, loss)

  bool is_warm_up() const { return repeat == 0; }
  bool has_failed() const { return exit_code != 0; }
  double seconds() const { return ended - begun; }
};

std::string to_text(const ScalingRun& run);  // one line of JSON
/// Throws Error(Data), naming `source`, when it is not what to_text() gave.
ScalingRun scaling_run_of(const std::string& text, const std::string& source);

struct Spread {
  double median = 0, low = 0, high = 0;
};
/// Of a set that is not empty; the median of an even number is the mean of the middle two.
Spread spread_of(std::vector<double> values);

/// A number of ranks, over its repetitions, or simulated.
struct ScalingPoint {
  std::int64_t ranks = 0, items = 0, nodes = 0;
  int runs = 0, failed = 0;
  bool is_simulated = false;
  Spread seconds, rate, work_rate;            // items a second: of the whole run, of its work alone
  Spread speed_up, efficiency;                // against the base's median
  double work_efficiency = 0;                 // the same of the work alone, medians
  double warm_up_seconds = 0;                 // 0: none
  double tail_seconds = 0, comm_overlap = 0;  // medians
  TimeShares shares{};                        // means over the runs
  double predicted_seconds = 0;               // by the simulator, for what was measured; 0: not asked for
};

/// A point as the simulator gives it.
struct SimulatedPoint {
  std::int64_t ranks = 0, items = 0, nodes = 0;
  double seconds = 0, work_seconds = 0, tail_seconds = 0;
  TimeShares shares{};
};

/// Simulated points and predictions for measured numbers of ranks, as text. `basis`: what was assumed.
std::string to_text(const std::vector<SimulatedPoint>& points, const std::map<std::int64_t, double>& predicted,
                    const std::string& basis);
/// Back; returns the basis. Throws Error(Data), naming `source`.
std::string read_simulated(const std::string& text, const std::string& source, std::vector<SimulatedPoint>& points,
                           std::map<std::int64_t, double>& predicted);

struct ScalingStudy {
  std::string stage, mode;             // "train.baseline"; "strong" | "weak"
  std::string title, unit;             // unit: "pictures", "samples", "images"
  std::string hardware, entity, date;  // of the file names
  std::string config_hash, config_file;
  int repeats = 5;
  std::map<std::string, std::string> facts;  // software, machine, file system, launcher: name -> value
  bool is_weak() const { return mode == "weak"; }
};

std::string to_text(const ScalingStudy& study);
/// Throws Error(Data), naming `source`.
ScalingStudy scaling_study_of(const std::string& text, const std::string& source);

struct ScalingResults {
  ScalingStudy study;
  std::vector<ScalingRun> runs;      // all there are, warm-ups and failures too, by ranks and repeat
  std::vector<ScalingPoint> points;  // measured ones by ranks, then simulated ones by ranks
  std::string simulated_basis;       // what the simulation assumed; "": nothing is simulated
  std::size_t measured = 0;          // so many of the points
  std::int64_t base_ranks = 0;       // against which speed-up is: of the first measured point, else simulated; 0: none
  int failed = 0;                    // runs
};

/// Puts runs together. `predicted`: for measured numbers of ranks.
ScalingResults scaling_results(ScalingStudy study, std::vector<ScalingRun> runs,
                               const std::vector<SimulatedPoint>& simulated = {},
                               const std::map<std::int64_t, double>& predicted = {});

/// One row a run, simulated points as rows too.
std::string scaling_csv(const ScalingResults& results);
std::string scaling_json(const ScalingResults& results);
/// A whole page without references to the outside. `config`: the effective configuration; `scripts`: name -> text.
std::string scaling_page(const ScalingResults& results, const std::string& config,
                         const std::map<std::string, std::string>& scripts);

/// "scaling-generate-strong_xeon-2-cores_2026-11-26_mini": theme_hardware_date_entity.
std::string scaling_file_name(const ScalingStudy& study);

}  // namespace divergen::stages
