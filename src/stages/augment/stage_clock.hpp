#pragma once
// Where the time of a sample goes: laps of one thread, summed over all of them.

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace divergen::stages {

/// What making a sample consists of, in order.
enum class Lap { Picture, Resize, Annotations, Instances, Scale, Paste, SelfCopy };
inline constexpr std::array<const char*, 7> kLapNames{"picture", "resize", "annotations", "instances",
                                                      "scale",   "paste",  "self_copy"};

/// Nanoseconds of each lap, of all threads. Thread-safe.
class LapTotals {
 public:
  void add(std::size_t lap, std::int64_t nanoseconds) { sums_[lap].fetch_add(nanoseconds, std::memory_order_relaxed); }
  std::array<double, kLapNames.size()> seconds() const {
    std::array<double, kLapNames.size()> out{};
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = 1e-9 * static_cast<double>(sums_[i].load(std::memory_order_relaxed));
    return out;
  }

 private:
  std::array<std::atomic<std::int64_t>, kLapNames.size()> sums_{};
};

/// Of one sample, in one thread. A clock without totals costs nothing and says nothing.
class StageClock {
 public:
  StageClock() = default;
  explicit StageClock(LapTotals& totals) : totals_(&totals), last_(Clock::now()) {}
  /// What happened since the lap before was `lap`.
  void lap(Lap lap) {
    if (totals_ == nullptr) return;
    const auto now = Clock::now();
    totals_->add(static_cast<std::size_t>(lap),
                 std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count());
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  LapTotals* totals_ = nullptr;
  Clock::time_point last_;
};

}  // namespace divergen::stages
