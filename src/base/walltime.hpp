#pragma once
// How long the job may still run, and how long before its end to stop.
//
// The end is asked for once (SLURM_JOB_END_TIME where Slurm sets it, else one squeue). The margin comes from what was
// measured: three times the longest commit, or the longest step plus ten seconds, whichever is more
// (reference/reliability.md §3: no fixed minutes).

#include <chrono>
#include <limits>
#include <mutex>
#include <optional>
#include <string_view>

namespace divergen {

class WalltimeClock {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr double kForever = std::numeric_limits<double>::infinity();
  static constexpr double kSlack = 10;        // seconds on top of a step
  static constexpr double kCommitFactor = 3;  // of the longest commit

  /// From now on the job ends in so many seconds (kForever: no end is known, as at first). Any thread, as all below.
  void set_seconds_left(double seconds);
  double seconds_left() const;
  /// What lies between two looks at the stop condition took so long.
  void saw_step(double seconds);
  /// Writing, flushing and publishing something took so long.
  void saw_commit(double seconds);
  double margin() const;
  /// Whether another step might not leave the time to save: seconds_left() < margin().
  bool is_near() const { return seconds_left() < margin(); }

 private:
  mutable std::mutex mutex_;
  std::optional<Clock::time_point> end_;
  double longest_step_ = 0, longest_commit_ = 0;
};

/// The clock of this process.
WalltimeClock& job_clock();

/// Tells job_clock() how long its scope took. For the code that commits something, when it went well.
class CommitTimer {
 public:
  CommitTimer() : start_(WalltimeClock::Clock::now()) {}
  ~CommitTimer();
  CommitTimer(const CommitTimer&) = delete;
  CommitTimer& operator=(const CommitTimer&) = delete;

 private:
  WalltimeClock::Clock::time_point start_;
};

/// Seconds that Slurm's notation means: "59", "01:30" (minutes and seconds), "2:00:00", "1-12:00:00", "3-6" (days and
/// hours). Nothing for "UNLIMITED", "NOT_SET" and whatever else is no time.
std::optional<double> parse_slurm_time(std::string_view text);

/// Seconds that the Slurm job around this process may still run; kForever outside of a job, without a limit, or when
/// Slurm does not answer. May run `squeue` (at most ten seconds): call it on one rank, once.
double ask_seconds_left();

}  // namespace divergen
