#include "base/stop.hpp"

#include <unistd.h>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/rank_record.hpp"
#include "base/signals.hpp"

namespace divergen {
namespace {

using Clock = WalltimeClock::Clock;

constexpr double kFileInterval = 1;  // seconds
constexpr auto kTick = std::chrono::milliseconds(100);

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

std::string_view to_string(StopReason reason) {
  switch (reason) {
    case StopReason::StopFile:
      return "the stop file";
    case StopReason::Warning:
      return "a warning signal";
    case StopReason::Walltime:
      return "the time limit";
    case StopReason::Terminated:
      return "SIGTERM";
    case StopReason::None:
      return "";
  }
  return "";
}

bool StopCondition::operator()() {
  const auto now = Clock::now();
  if (last_call_) job_clock().saw_step(seconds_between(*last_call_, now));
  last_call_ = now;
  // Once asked, always asked: a stage may look again while it drains.
  if (reason_ == StopReason::None) reason_ = look();
  return reason_ != StopReason::None;
}

StopReason StopCondition::look() {
  if (seconds_since_term()) return StopReason::Terminated;
  if (stop_signalled()) return StopReason::Warning;
  if (job_clock().is_near()) return StopReason::Walltime;
  if (stop_file_.empty()) return StopReason::None;
  const auto now = Clock::now();
  if (last_file_look_ && seconds_between(*last_file_look_, now) < kFileInterval) return StopReason::None;
  last_file_look_ = now;
  std::error_code ignored;
  return std::filesystem::exists(stop_file_, ignored) ? StopReason::StopFile : StopReason::None;
}

LeaveGuard::LeaveGuard() : thread_([this] { watch(); }) {}

LeaveGuard::~LeaveGuard() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void LeaveGuard::leave_within(double seconds) {
  const std::lock_guard lock(mutex_);
  latest_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

void LeaveGuard::before_leaving(std::function<void(std::string_view)> action) {
  const std::lock_guard lock(mutex_);
  before_leaving_ = std::move(action);
}

/// Under the lock. What is over first, or None.
StopReason LeaveGuard::overdue() const {
  if (seconds_since_term().value_or(0) > kAfterTerm) return StopReason::Terminated;
  if (job_clock().seconds_left() < kBeforeEnd) return StopReason::Walltime;
  return latest_ && Clock::now() > *latest_ ? StopReason::Warning : StopReason::None;
}

void LeaveGuard::watch() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kTick, [this] { return done_; })) {
    const StopReason why = overdue();
    if (why == StopReason::None) continue;
    if (why == StopReason::Warning) log::warn("the other ranks do not come to their end: this one leaves");
    else log::warn("no time is left (", to_string(why), "): the work in hand is left, what was committed stays");
    if (before_leaving_ && why != StopReason::Warning) before_leaving_(to_string(why));
    log::flush();
    rank_record().leave(Leaving::InOrder);
    ::_exit(exit_code(ErrorKind::Stopped));
  }
}

}  // namespace divergen
