#include "base/walltime.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen {
namespace {

double seconds_since(WalltimeClock::Clock::time_point start) {
  return std::chrono::duration<double>(WalltimeClock::Clock::now() - start).count();
}

std::optional<double> whole_number(std::string_view text) {
  long long value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return static_cast<double>(value);
}

std::string squeue_time_left(const std::string& job) {
  // The job's id goes to a shell: nothing but digits and underscores may.
  if (job.empty() || !std::all_of(job.begin(), job.end(), [](unsigned char c) { return std::isdigit(c) || c == '_'; }))
    return "";
  std::string line;
  if (FILE* pipe = ::popen(cat("timeout 10 squeue -h -j ", job, " -o %L 2>/dev/null").c_str(), "r")) {
    std::array<char, 64> buffer{};
    if (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) line = buffer.data();
    ::pclose(pipe);
  }
  while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.pop_back();
  return line;
}

}  // namespace

void WalltimeClock::set_seconds_left(double seconds) {
  constexpr double kYears = 1e9;  // what a clock of nanoseconds can be moved by with ease
  const std::lock_guard lock(mutex_);
  end_.reset();
  if (seconds < kYears)
    end_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

double WalltimeClock::seconds_left() const {
  const std::lock_guard lock(mutex_);
  return end_ ? -seconds_since(*end_) : kForever;
}

void WalltimeClock::saw_step(double seconds) {
  const std::lock_guard lock(mutex_);
  longest_step_ = std::max(longest_step_, seconds);
}

void WalltimeClock::saw_commit(double seconds) {
  const std::lock_guard lock(mutex_);
  longest_commit_ = std::max(longest_commit_, seconds);
}

double WalltimeClock::margin() const {
  const std::lock_guard lock(mutex_);
  return std::max(kCommitFactor * longest_commit_, longest_step_ + kSlack);
}

WalltimeClock& job_clock() {
  static WalltimeClock clock;
  return clock;
}

CommitTimer::~CommitTimer() { job_clock().saw_commit(seconds_since(start_)); }

std::optional<double> parse_slurm_time(std::string_view text) {
  const std::size_t dash = text.find('-');
  double days = 0;
  if (dash != std::string_view::npos) {
    const auto number = whole_number(text.substr(0, dash));
    if (!number) return std::nullopt;
    days = *number;
    text.remove_prefix(dash + 1);
  }
  std::array<double, 3> parts{};
  std::size_t count = 0;
  for (const std::string& part : split(text, ':')) {
    const auto number = whole_number(part);
    if (!number || count == parts.size()) return std::nullopt;
    parts[count++] = *number;
  }
  if (count == 0) return std::nullopt;
  constexpr double kMinute = 60, kHour = 3600, kDay = 86400;
  // After days the first number is hours; otherwise the last one is seconds.
  if (dash != std::string_view::npos) return days * kDay + parts[0] * kHour + parts[1] * kMinute + parts[2];
  if (count == 3) return parts[0] * kHour + parts[1] * kMinute + parts[2];
  return count == 2 ? parts[0] * kMinute + parts[1] : parts[0];
}

double ask_seconds_left() {
  const char* job = std::getenv("SLURM_JOB_ID");
  if (job == nullptr) return WalltimeClock::kForever;
  if (const char* end = std::getenv("SLURM_JOB_END_TIME"))
    if (const auto epoch = whole_number(end); epoch && *epoch > 0) return *epoch - epoch_seconds();
  return parse_slurm_time(squeue_time_left(job)).value_or(WalltimeClock::kForever);
}

}  // namespace divergen
