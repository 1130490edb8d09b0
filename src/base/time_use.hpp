#pragma once
// What the time of this process went into besides its work, for scaling studies (reference/reliability.md §7): loading
// models, committing, waiting for input or for other ranks. Added up by the code that does it, read by the stage's
// record.

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>

namespace divergen {

enum class TimeUse : std::size_t {
  Load,    // models, between the first claim and the last
  Commit,  // writing, flushing, checking and publishing results, as far as the work waits for it
  Input,   // waiting for what the work reads
  Comm,    // waiting for other ranks' gradients
  Agree,   // waiting for the small numbers of a training step, and so for the slowest rank
  Moving,  // gradients on their way, whether the work waits or not; over MPI alone
};

class TimeUseClock {
 public:
  using Seconds = std::array<double, 6>;  // by TimeUse

  /// Any thread, as all below; but only what the work waits for is to be added.
  void add(TimeUse use, double seconds) { seconds_[static_cast<std::size_t>(use)].fetch_add(seconds); }
  double seconds(TimeUse use) const { return seconds_[static_cast<std::size_t>(use)].load(); }
  Seconds seconds() const {
    Seconds out{};
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = seconds_[i].load();
    return out;
  }
  /// When the ranks had found each other, seconds since 1970; 0: not yet.
  void set_ready(double time) { ready_.store(time); }
  double ready() const { return ready_.load(); }

 private:
  std::array<std::atomic<double>, 6> seconds_{};
  std::atomic<double> ready_{0};
};

/// The clock of this process.
inline TimeUseClock& time_use() {
  static TimeUseClock clock;
  return clock;
}

/// Its scope belongs to the use, however it ends.
class TimeUseTimer {
 public:
  explicit TimeUseTimer(TimeUse use) : use_(use), start_(std::chrono::steady_clock::now()) {}
  ~TimeUseTimer() {
    time_use().add(use_, std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
  }
  TimeUseTimer(const TimeUseTimer&) = delete;
  TimeUseTimer& operator=(const TimeUseTimer&) = delete;

 private:
  TimeUse use_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace divergen
