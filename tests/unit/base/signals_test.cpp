#include "base/signals.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace divergen {
namespace {

// Runs `child` in a process of its own (the flag and the handlers belong to a process). Returns its wait status.
template <class Child>
int status_of(const Child& child) {
  const pid_t pid = fork();
  if (pid == 0) _exit(child());
  int status = 0;
  waitpid(pid, &status, 0);
  return status;
}

TEST(Signals, RaiseTheFlagAndNameTheFirst) {
  struct Case {
    int number;
    const char* name;
  };
  for (const auto& [number, name] :
       {Case{SIGTERM, "SIGTERM"}, Case{SIGINT, "SIGINT"}, Case{SIGUSR1, "SIGUSR1"}, Case{SIGUSR2, "SIGUSR2"}}) {
    const int status = status_of([number = number, name = name] {
      install_stop_signals();
      if (stop_signalled() || !stop_signal_name().empty()) return 1;
      raise(number);
      if (!stop_signalled() || stop_signal_name() != name) return 2;
      raise(SIGTERM);
      return stop_signal_name() == name ? 0 : 3;
    });
    ASSERT_TRUE(WIFEXITED(status)) << name;
    EXPECT_EQ(WEXITSTATUS(status), 0) << name;
  }
}

TEST(Signals, ASecondInterruptEndsTheProgram) {
  const int status = status_of([] {
    install_stop_signals();
    raise(SIGINT);
    raise(SIGINT);
    return 0;
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

TEST(Signals, WithoutThemAProgramEndsAsUsual) {
  const int status = status_of([] {
    raise(SIGUSR1);
    return 0;
  });
  EXPECT_TRUE(WIFSIGNALED(status));
}

}  // namespace
}  // namespace divergen
