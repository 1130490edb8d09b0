// Notes of a rank that outlive it.

#include "base/rank_record.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.hpp"

namespace divergen {
namespace {

struct Folder {
  Folder() : path(std::filesystem::temp_directory_path() / cat("divergen-record-", ::getpid())) { make_folder(path); }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  Path path;
};

}  // namespace

TEST(RankRecord, SaysWhereAKilledProcessWas) {
  const Folder folder;
  const Path file = folder.path / "record";
  const pid_t child = ::fork();
  if (child == 0) {
    RankRecord& record = rank_record();
    if (!record.attach(file, 2, 5, "node7", "train.x")) ::_exit(1);
    record.set_step(41);
    record.set_phase(Phase::Backward);
    { const InCall done(Lane::Main, Call::Sum, 96); }
    { const InCall done(Lane::Gradients, Call::GradientSum, 1 << 20); }
    const InCall inside(Lane::Gradients, Call::GradientSum, 3 << 20);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));

  const auto state = read_rank_record(file);

  ASSERT_TRUE(state);
  EXPECT_EQ(state->rank, 2);
  EXPECT_EQ(state->ranks, 5);
  EXPECT_EQ(state->pid, child);
  EXPECT_EQ(state->step, 41);
  EXPECT_EQ(state->leaving, Leaving::No);
  EXPECT_EQ(state->lane(Lane::Main).begun, 1u);
  EXPECT_FALSE(state->lane(Lane::Main).is_inside());
  EXPECT_EQ(state->lane(Lane::Gradients).begun, 2u);
  EXPECT_TRUE(state->lane(Lane::Gradients).is_inside());
  EXPECT_EQ(describe(*state, state->lane(Lane::Gradients).changed + 1.26),
            cat("rank 2 on node7 (process ", child, "): step 41, backward; last collective: sum of gradients #2 ",
                "(3.0 MiB), in it for 1.3 s"));
}

TEST(RankRecord, IsNothingWhenTheFileIsNone) {
  const Folder folder;
  EXPECT_FALSE(read_rank_record(folder.path / "absent"));
  write_file_atomic(folder.path / "short", "DVRANK");
  EXPECT_FALSE(read_rank_record(folder.path / "short"));
  write_file_atomic(folder.path / "other", std::string(4096, 'x'));
  EXPECT_FALSE(read_rank_record(folder.path / "other"));
}

TEST(RankRecord, GoesOnInMemoryWhereNoFileCanBe) {
  RankRecord& record = rank_record();
  EXPECT_FALSE(record.attach("/proc/nowhere/record", 0, 1, "here", "stage"));
  const auto before = record.state().lane(Lane::Main).begun;
  { const InCall call(Lane::Main, Call::Barrier); }
  EXPECT_EQ(record.state().lane(Lane::Main).begun, before + 1);
}

TEST(RankRecord, PatienceIsPutBack) {
  rank_record().set_patience(3);
  {
    const PatienceScope scope(300);
    EXPECT_EQ(rank_record().patience(), 300);
  }
  EXPECT_EQ(rank_record().patience(), 3);
  rank_record().set_patience(0);
}

TEST(LifeOf, TellsRunningStoppedAndGone) {
  EXPECT_EQ(life_of(::getpid(), own_start()), Life::Runs);
  EXPECT_EQ(life_of(::getpid(), own_start() + 1), Life::Gone);  // another process had this number
  const pid_t child = ::fork();
  if (child == 0) {
    ::raise(SIGSTOP);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, WUNTRACED);
  ASSERT_TRUE(WIFSTOPPED(status));
  std::uint64_t started = 0;
  for (std::uint64_t ticks = own_start(); ticks < own_start() + 100000 && started == 0; ++ticks)
    if (life_of(child, ticks) != Life::Gone) started = ticks;
  EXPECT_EQ(life_of(child, started), Life::Stopped);
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  EXPECT_EQ(life_of(child, started), Life::Gone);
}

}  // namespace divergen
