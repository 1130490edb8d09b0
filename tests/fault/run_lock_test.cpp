// Two jobs on one run (reference/reliability.md §6, double_job).

#include "base/run_lock.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "support/fixtures.hpp"

namespace divergen {
namespace {

/// What the second start says, or "" when it gets the run.
std::string second_start(const Path& dir) {
  try {
    const RunLock lock(dir);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(exit_code(error.kind()), 65) << error.what();
    return error.what();
  }
}

/// A lease as another node left it, last touched so many seconds ago.
void leave_lease(const Path& dir, double seconds_ago) {
  std::filesystem::remove(dir / "run.lock");
  write_file_atomic(dir / "run.lock", "process 4242\non node7\nin 99\nsince 1\n");
  const auto then = static_cast<time_t>(epoch_seconds() - seconds_ago);
  const struct timespec times[2] = {{then, 0}, {then, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, (dir / "run.lock").c_str(), times, 0), 0);
}

/// A process that holds the run until it is killed.
pid_t hold(const Path& dir) {
  int ready[2];
  EXPECT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const RunLock lock(dir);
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    while (true) ::pause();
  }
  char byte = 0;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  ::close(ready[0]);
  ::close(ready[1]);
  return child;
}

}  // namespace

TEST(DoubleJob, TheSecondIsRefusedAtOnceAndNamesTheHolder) {
  const test::TemporaryFolder folder;
  const pid_t holder = hold(folder.path());
  const auto start = std::chrono::steady_clock::now();

  const std::string said = second_start(folder.path());

  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  EXPECT_NE(said.find(cat("process ", holder, " ")), std::string::npos) << said;
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
  EXPECT_EQ(second_start(folder.path()), "") << "a killed holder on this node does not keep the run";
}

TEST(DoubleJob, ALeaseOfAnotherNodeCountsForTwoMinutes) {
  const test::TemporaryFolder folder;
  leave_lease(folder.path(), 100);
  const std::string said = second_start(folder.path());
  EXPECT_NE(said.find("process 4242 on node7 in job 99"), std::string::npos) << said;

  leave_lease(folder.path(), 125);
  EXPECT_EQ(second_start(folder.path()), "") << "no sign of life for 120 s: taken over";
}

TEST(DoubleJob, LeavesNothingBehind) {
  const test::TemporaryFolder folder;
  {
    const RunLock lock(folder.path());
    EXPECT_TRUE(std::filesystem::exists(folder / "run.lock"));
    EXPECT_NE(second_start(folder.path()), "");
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "run.lock"));
  EXPECT_EQ(second_start(folder.path()), "");
}

}  // namespace divergen
