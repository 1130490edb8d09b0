// clock_skew (reference/reliability.md §6): a wall clock that is an hour off, or jumps by an hour while a process runs
// (as at the ends of summer time), changes no id and no result, and neither leases nor time limits depend on it. Runs
// with the shim preloaded (CMakeLists.txt).
//
// One reading of the wall clock is meant: SLURM_JOB_END_TIME is a wall time, compared once at the start
// (base/walltime.cpp). Slurm itself refuses nodes whose clocks are minutes apart.

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/run_lock.hpp"
#include "base/stop.hpp"
#include "base/walltime.hpp"
#include "store/library.hpp"
#include "support/fixtures.hpp"
#include "support/library_cases.hpp"

namespace divergen {
namespace {

constexpr long kHour = 3600;
constexpr long kOffsets[] = {-kHour, kHour, -24 * kHour, 0};

class ClockSkew : public testing::Test {
 protected:
  void SetUp() override {
    set_ = reinterpret_cast<decltype(set_)>(::dlsym(RTLD_DEFAULT, "divergen_clock_set"));
    ASSERT_NE(set_, nullptr) << "the shim is not preloaded";
    set_(0);
  }
  void TearDown() override {
    if (set_ != nullptr) set_(0);
  }
  void set_clock(long seconds) const { set_(seconds); }

  /// A lease of another node, touched so many seconds ago by the file system's clock.
  void leave_lease(long seconds_ago) const {
    const Path file = folder / "run.lock";
    std::filesystem::remove(file);
    write_file_atomic(file, "process 4242\non node7\nin 99\nsince 1\n");
    struct stat now {};
    ASSERT_EQ(::stat(file.c_str(), &now), 0);
    const struct timespec then { now.st_mtim.tv_sec - seconds_ago, now.st_mtim.tv_nsec };
    const struct timespec times[2] = {then, then};
    ASSERT_EQ(::utimensat(AT_FDCWD, file.c_str(), times, 0), 0);
  }
  bool is_refused() const {
    try {
      const RunLock lock(folder.path());
      return false;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Data);
      return true;
    }
  }

  test::TemporaryFolder folder;

 private:
  void (*set_)(long) = nullptr;
};

}  // namespace

TEST_F(ClockSkew, TheShimMovesTheWallClockAlone) {
  const double before = epoch_seconds();
  const auto steady = std::chrono::steady_clock::now();
  set_clock(kHour);
  EXPECT_NEAR(epoch_seconds() - before, kHour, 5);
  EXPECT_NEAR(static_cast<double>(::time(nullptr)) - before, kHour, 5);
  EXPECT_LT(std::chrono::steady_clock::now() - steady, std::chrono::seconds(5));
}

TEST_F(ClockSkew, LeasesAgeByTheFileSystemsClock) {
  for (const long offset : kOffsets) {
    set_clock(offset);
    leave_lease(100);
    EXPECT_TRUE(is_refused()) << "the clock is off by " << offset;
    leave_lease(125);
    EXPECT_FALSE(is_refused()) << "the clock is off by " << offset;
  }
}

TEST_F(ClockSkew, AHeldRunStaysHeldWhenTheClockJumps) {
  const pid_t holder = ::fork();
  if (holder == 0) {
    const RunLock lock(folder.path());
    write_file_atomic(folder / "holds", "");
    while (true) ::pause();
  }
  while (!std::filesystem::exists(folder / "holds")) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  for (const long offset : kOffsets) {
    set_clock(offset);
    EXPECT_TRUE(is_refused()) << "the clock is off by " << offset;
  }
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
}

TEST_F(ClockSkew, TimeLimitsRunByTheMonotonicClock) {
  WalltimeClock clock;
  clock.set_seconds_left(100);
  for (const long offset : kOffsets) {
    set_clock(offset);
    EXPECT_NEAR(clock.seconds_left(), 100, 5);
    EXPECT_FALSE(clock.is_near());
  }
  clock.set_seconds_left(5);
  EXPECT_TRUE(clock.is_near());
  set_clock(-kHour);
  EXPECT_TRUE(clock.is_near());
}

TEST_F(ClockSkew, AJumpIsNoStepThatTookAnHour) {
  StopCondition stop{Path()};
  for (const long offset : kOffsets) {
    set_clock(offset);
    EXPECT_FALSE(stop());
  }
  {
    set_clock(0);
    const CommitTimer timer;
    set_clock(kHour);
  }
  EXPECT_LT(job_clock().margin(), WalltimeClock::kSlack + 5);
}

TEST_F(ClockSkew, NobodyIsMadeToLeaveByAJump) {
  const pid_t child = ::fork();
  if (child == 0) {
    LeaveGuard guard;
    guard.leave_within(100);
    set_clock(kHour);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    set_clock(-kHour);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    ::_exit(7);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
}

TEST_F(ClockSkew, ShardsHaveTheSameBytes) {
  const auto write = [&](long offset) {
    set_clock(offset);
    const Path file = folder / cat("shard", offset, ".h5");
    store::write_library_shard(file, test::instances(12), test::tables());
    return read_file(file);
  };
  const std::string expected = write(0);
  for (const long offset : kOffsets) EXPECT_TRUE(write(offset) == expected) << offset;
}

}  // namespace divergen
