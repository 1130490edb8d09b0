#pragma once
// When to stop early, and how late a process may leave.
//
// Three sources make one flag: a signal, the walltime clock, and the stop file (reference/reliability.md §3). Stages
// look at it between items or steps, commit, and leave with exit code 75. A process that cannot come to such a point in
// time leaves without: everything durable is committed whole, so that only the work in hand is lost.

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>

#include "base/fs.hpp"
#include "base/walltime.hpp"

namespace divergen {

/// Why a process stops early. Ordered: of several ranks' reasons the largest is told.
enum class StopReason { None, StopFile, Warning, Walltime, Terminated };
/// "the stop file", "a warning signal", "the time limit", "SIGTERM", or "".
std::string_view to_string(StopReason reason);

class StopCondition {
 public:
  /// `stop_file`: its presence asks to stop; it is looked for at most once a second, and not at all when empty (one
  /// rank looks, so that thousands do not ask the file system).
  explicit StopCondition(Path stop_file) : stop_file_(std::move(stop_file)) {}

  /// Whether this process should stop at the next safe point. Cheap; from one thread. What lies between two calls is a
  /// step, and job_clock() is told how long it took.
  bool operator()();
  /// What the last call that said so was about.
  StopReason reason() const { return reason_; }

 private:
  StopReason look();

  Path stop_file_;
  StopReason reason_ = StopReason::None;
  std::optional<WalltimeClock::Clock::time_point> last_call_, last_file_look_;
};

/// Ends the process with exit code 75 when it has not come to an end by itself
///   * kAfterTerm seconds after a SIGTERM (Slurm kills 30 s after it, a preempting partition maybe sooner), or
///   * kBeforeEnd seconds before the job's end by job_clock(), so that the batch script can still requeue, or
///   * after leave_within().
/// A thread looks ten times a second while the object lives.
class LeaveGuard {
 public:
  static constexpr double kAfterTerm = 18;
  static constexpr double kBeforeEnd = 8;

  LeaveGuard();
  ~LeaveGuard();
  LeaveGuard(const LeaveGuard&) = delete;
  LeaveGuard& operator=(const LeaveGuard&) = delete;

  /// Called before the process is ended, with the reason, by the guard's thread; empty: nothing. It must return at
  /// once.
  void before_leaving(std::function<void(std::string_view)> action);
  /// This process is through and waits for the others: no longer than so many seconds.
  void leave_within(double seconds);

 private:
  void watch();
  StopReason overdue() const;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::function<void(std::string_view)> before_leaving_;
  std::optional<WalltimeClock::Clock::time_point> latest_;
  std::thread thread_;
};

}  // namespace divergen
