#include "base/walltime.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/signals.hpp"
#include "base/stop.hpp"

namespace divergen {
namespace {

/// What `body` returned in a process of its own: signals and clocks of a process belong to all of it.
int exit_code_of(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

Path temporary_file(const std::string& name) { return std::filesystem::temp_directory_path() / (name + cat(getpid())); }

TEST(SlurmTime, IsReadInAllItsNotations) {
  EXPECT_EQ(parse_slurm_time("59"), 59);
  EXPECT_EQ(parse_slurm_time("01:30"), 90);
  EXPECT_EQ(parse_slurm_time("2:00:00"), 7200);
  EXPECT_EQ(parse_slurm_time("1-12:00:01"), 86400 + 12 * 3600 + 1);
  EXPECT_EQ(parse_slurm_time("3-6"), 3 * 86400 + 6 * 3600);
  EXPECT_EQ(parse_slurm_time("1-0:30"), 86400 + 1800);
}

TEST(SlurmTime, IsNothingWhereThereIsNoTime) {
  for (const char* text : {"UNLIMITED", "NOT_SET", "INVALID", "", "1:2:3:4", "-", "1-", "-5", "1:-2", "5 "})
    EXPECT_FALSE(parse_slurm_time(text)) << text;
}

TEST(WalltimeClock, KnowsNoEndAtFirst) {
  const WalltimeClock clock;
  EXPECT_EQ(clock.seconds_left(), WalltimeClock::kForever);
  EXPECT_FALSE(clock.is_near());
}

TEST(WalltimeClock, MarginComesFromWhatWasMeasured) {
  WalltimeClock clock;
  EXPECT_DOUBLE_EQ(clock.margin(), WalltimeClock::kSlack);
  clock.saw_step(4);
  clock.saw_step(2);
  EXPECT_DOUBLE_EQ(clock.margin(), 14);
  clock.saw_commit(3);
  EXPECT_DOUBLE_EQ(clock.margin(), 14);
  clock.saw_commit(7);
  EXPECT_DOUBLE_EQ(clock.margin(), 21);
}

TEST(WalltimeClock, IsNearWithinItsMargin) {
  WalltimeClock clock;
  clock.set_seconds_left(30);
  EXPECT_FALSE(clock.is_near());
  EXPECT_NEAR(clock.seconds_left(), 30, 1);
  clock.saw_step(25);
  EXPECT_TRUE(clock.is_near());
  clock.set_seconds_left(WalltimeClock::kForever);
  EXPECT_FALSE(clock.is_near());
}

TEST(WalltimeClock, AsksSlurmsVariableFirst) {
  ::setenv("SLURM_JOB_ID", "1", 1);
  ::setenv("SLURM_JOB_END_TIME", cat(static_cast<long long>(epoch_seconds()) + 100).c_str(), 1);
  EXPECT_NEAR(ask_seconds_left(), 100, 2);
  ::unsetenv("SLURM_JOB_END_TIME");
  ::unsetenv("SLURM_JOB_ID");
  EXPECT_EQ(ask_seconds_left(), WalltimeClock::kForever);
}

TEST(StopCondition, LearnsHowLongStepsTake) {
  EXPECT_EQ(exit_code_of([] {
              StopCondition stop{Path()};
              stop();
              std::this_thread::sleep_for(std::chrono::milliseconds(300));
              stop();
              return job_clock().margin() >= WalltimeClock::kSlack + 0.3 ? 0 : 1;
            }),
            0);
}

TEST(StopCondition, TellsWhatItIsAbout) {
  const auto reason_after = [](const std::function<void()>& event, const Path& file = {}) {
    return exit_code_of([&] {
      install_stop_signals();
      StopCondition stop(file);
      if (stop()) return 100;
      event();
      return stop() ? static_cast<int>(stop.reason()) : 101;
    });
  };
  EXPECT_EQ(reason_after([] {}), 101);
  EXPECT_EQ(reason_after([] { ::raise(SIGUSR2); }), static_cast<int>(StopReason::Warning));
  EXPECT_EQ(reason_after([] { ::raise(SIGTERM); }), static_cast<int>(StopReason::Terminated));
  EXPECT_EQ(reason_after([] { job_clock().set_seconds_left(5); }), static_cast<int>(StopReason::Walltime));
  const Path file = temporary_file("divergen-stop-");
  EXPECT_EQ(reason_after(
                [&] {
                  write_file_atomic(file, "");
                  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // it is looked for once a second
                },
                file),
            static_cast<int>(StopReason::StopFile));
  remove_quietly(file);
}

TEST(LeaveGuard, LeavesBeforeTheJobEndsAndSaysWhy) {
  const Path note = temporary_file("divergen-leave-");
  EXPECT_EQ(exit_code_of([&] {
              LeaveGuard guard;
              guard.before_leaving([&](std::string_view reason) { write_file_atomic(note, reason); });
              job_clock().set_seconds_left(LeaveGuard::kBeforeEnd + 0.3);
              std::this_thread::sleep_for(std::chrono::seconds(20));
              return 1;
            }),
            75);
  EXPECT_EQ(read_file(note), "the time limit");
  remove_quietly(note);
}

TEST(LeaveGuard, WaitsForOthersNoLongerThanTold) {
  EXPECT_EQ(exit_code_of([] {
              LeaveGuard guard;
              guard.leave_within(0.2);
              std::this_thread::sleep_for(std::chrono::seconds(20));
              return 1;
            }),
            75);
}

TEST(LeaveGuard, LetsGoWhoIsThrough) {
  EXPECT_EQ(exit_code_of([] {
              {
                LeaveGuard guard;
                guard.leave_within(0.2);
              }
              std::this_thread::sleep_for(std::chrono::milliseconds(500));
              return 3;
            }),
            3);
}

}  // namespace
}  // namespace divergen
