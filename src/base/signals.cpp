#include "base/signals.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>

#include "base/error.hpp"

namespace divergen {
namespace {

std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

extern "C" void note_signal(int number) {
  int none = 0;
  first_signal.compare_exchange_strong(none, number);
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
