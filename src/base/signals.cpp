#include "base/signals.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <ctime>

#include "base/error.hpp"

namespace divergen {
namespace {

std::atomic<int> first_signal{0};
std::atomic<std::int64_t> first_term{0};  // nanoseconds of the monotonic clock
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<std::int64_t>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

std::int64_t monotonic_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);  // may be called in a signal handler
  return now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec;
}

extern "C" void note_signal(int number) {
  int none = 0;
  first_signal.compare_exchange_strong(none, number);
  std::int64_t never = 0;
  if (number == SIGTERM) first_term.compare_exchange_strong(never, monotonic_now());
}

}  // namespace

void install_stop_signals() {
  for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) {
    struct sigaction action = {};
    action.sa_handler = note_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    if (number == SIGINT) action.sa_flags |= static_cast<int>(SA_RESETHAND);
    if (sigaction(number, &action, nullptr) != 0) fail_errno("cannot listen for signals", "sigaction", errno);
  }
}

bool stop_signalled() { return first_signal.load(std::memory_order_relaxed) != 0; }

std::optional<double> seconds_since_term() {
  const std::int64_t at = first_term.load(std::memory_order_relaxed);
  if (at == 0) return std::nullopt;
  return static_cast<double>(monotonic_now() - at) * 1e-9;
}

std::string_view stop_signal_name() {
  switch (first_signal.load(std::memory_order_relaxed)) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    default:
      return "";
  }
}

}  // namespace divergen
