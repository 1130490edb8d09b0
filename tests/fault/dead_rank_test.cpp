// A rank of a training that dies, stops or hangs (reference/reliability.md §6, dead_rank): the others end within the
// timeout and ten seconds, the log names the rank and its last collective, and no process is left. The program starts
// itself under mpiexec; DIVERGEN_FULL=1 repeats the cases at ten random moments, with rank 0 and with another one.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <thread>

#include "base/error.hpp"
#include "base/fault.hpp"
#include "base/log.hpp"
#include "base/rank_record.hpp"
#include "base/rng.hpp"
#include "base/signals.hpp"
#include "base/stop.hpp"
#include "base/text.hpp"
#include "comm/watchdog.hpp"
#include "mpi/train/small_world.hpp"
#include "stages/train/train.hpp"

namespace divergen {
namespace {

constexpr int kRanks = 3;
constexpr double kTimeout = 4;     // train.step_timeout
constexpr double kAllowed = 10;    // on top of it
constexpr double kPatience = 120;  // for a machine that is busy with other things
std::string own_path;              // of this program

double now() { return monotonic_seconds(); }
void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

/// One rank: trains until something ends it. argv: --rank [rank that hangs at its fifth step].
int run_rank(int argc, char** argv) {
  install_stop_signals();
  LeaveGuard guard;
  comm::World world(&argc, &argv);
  test::world_slot() = &world;
  test::SmallWorld small;
  const stages::RunContext context = small.run("run");
  const Path logs = context.dir.root() / "logs";
  make_folder(logs);
  log::init({world.rank(), (logs / cat("rank-", world.rank(), ".log")).string(), log::Level::Info});
  const comm::Watchdog watchdog(world, logs, "train.small");
  small.training.iterations = 100000;
  small.training.checkpoint_every = 1000;
  small.training.log_every = 1000;
  small.training.step_timeout = kTimeout;
  if (argc > 2 && std::atoi(argv[2]) == world.rank()) fault::arm("train.step", fault::Action::Pause, 5);
  try {
    stages::run_train(context, small.training);
  } catch (const Error& error) {
    return exit_code(error.kind());  // asked to stop, all together
  }
  return 0;
}

/// mpiexec with three ranks, in a folder of its own.
class Job {
 public:
  explicit Job(const std::vector<std::string>& arguments = {}) {
    static int number = 0;
    folder_ = std::filesystem::temp_directory_path() / cat("divergen-dead-", ::getpid(), "-", number++);
    make_folder(folder_);
    std::vector<std::string> command{DIVERGEN_MPIEXEC,       "--oversubscribe", "--bind-to", "none", "-n",
                                     std::to_string(kRanks), own_path,          "--rank"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    std::fflush(nullptr);  // or both processes print what waits
    launcher_ = ::fork();
    if (launcher_ == 0) {
      ::setenv("TMPDIR", folder_.c_str(), 1);  // of the ranks' files too
      for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMP_NUM_THREADS"})
        ::setenv(name, "1", 1);
      std::freopen((folder_ / "output").c_str(), "w", stdout);
      ::dup2(::fileno(stdout), STDERR_FILENO);
      std::vector<char*> argv;
      for (std::string& word : command) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
  }
  ~Job() {
    if (!status_) ::kill(launcher_, SIGKILL);
    for (const RankState& rank : ranks_)
      if (life_of(rank.pid, rank.started) != Life::Gone) ::kill(static_cast<pid_t>(rank.pid), SIGKILL);
    if (!status_) ::waitpid(launcher_, nullptr, 0);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// Waits until all ranks have come to this step.
  bool reach(std::int64_t step) {
    for (const double start = now(); now() - start < kPatience && !has_ended(); sleep_for(0.02)) {
      ranks_.clear();
      for (const auto& entry : std::filesystem::directory_iterator(folder_, unknown_))
        if (entry.path().filename().string().starts_with("divergen-train")) logs_ = entry.path() / "run" / "logs";
      for (int rank = 0; rank < kRanks; ++rank)
        if (const auto state = read_rank_record(record_of(rank)); state && state->step >= step)
          ranks_.push_back(*state);
      if (ranks_.size() == kRanks) break;
    }
    return ranks_.size() == kRanks && !has_ended();
  }
  void signal(int rank, int number) const {
    ASSERT_EQ(::kill(static_cast<pid_t>(ranks_.at(static_cast<std::size_t>(rank)).pid), number), 0);
  }
  std::int64_t step_of(int rank) const {
    const auto state = read_rank_record(record_of(rank));
    return state ? state->step : -1;
  }
  bool has_ended() {
    int status = 0;
    if (!status_ && ::waitpid(launcher_, &status, WNOHANG) == launcher_) status_ = status;
    return status_.has_value();
  }
  /// Seconds until the launcher has ended; more than `most` when it has not.
  double wait(double most) {
    const double start = now();
    while (!has_ended() && now() - start < most) sleep_for(0.02);
    return has_ended() ? now() - start : most + 1;
  }
  int exit_code() const { return status_ && WIFEXITED(*status_) ? WEXITSTATUS(*status_) : -1; }
  std::string output() const { return read_file(folder_ / "output"); }
  /// "rank 1 on host (process 77): step"; its end may be a later step than the one that was looked at.
  std::string name_of(int rank) const {
    const RankState& state = ranks_.at(static_cast<std::size_t>(rank));
    return cat("rank ", rank, " on ", state.host, " (process ", state.pid, "): step ");
  }
  Path logs() const { return logs_; }
  int left_processes() const {
    const double start = now();
    int left = kRanks;
    while (left > 0 && now() - start < 2) {
      left = 0;
      for (const RankState& rank : ranks_) left += life_of(rank.pid, rank.started) != Life::Gone ? 1 : 0;
      sleep_for(0.02);
    }
    return left;
  }

 private:
  Path record_of(int rank) const { return logs_ / cat("train.small.rank-", rank, ".heartbeat"); }

  Path folder_, logs_;
  pid_t launcher_ = 0;
  std::optional<int> status_;
  std::vector<RankState> ranks_;
  std::error_code unknown_;
};

/// The job must end within `most` seconds, with a word about `rank` that holds `why`.
void expect_named_end(Job& job, int rank, const std::string& why, double most) {
  const double seconds = job.wait(most);

  EXPECT_LE(seconds, most) << job.output();
  const std::string output = job.output();
  const std::size_t at = output.find(job.name_of(rank));
  ASSERT_NE(at, std::string::npos) << output;
  const std::string line = output.substr(at, output.find('\n', at) - at);
  EXPECT_NE(line.find("last collective: "), std::string::npos) << line;
  EXPECT_NE(line.find(why), std::string::npos) << line;
  EXPECT_NE(output.find("a rank is lost"), std::string::npos);
  EXPECT_EQ(job.left_processes(), 0);
  const auto words = comm::last_words(job.logs(), "train.small");
  ASSERT_TRUE(words);
  EXPECT_NE(words->find(job.name_of(rank)), std::string::npos) << *words;
  std::printf("ended after %.1f s, code %d: %s\n", seconds, job.exit_code(), line.c_str());
}

bool is_full() { return std::getenv("DIVERGEN_FULL") != nullptr; }
int rounds() { return is_full() ? 10 : 1; }
/// Rank 0 is special: it looks first, and mpirun's output is its own.
std::vector<int> victims(int usual) { return is_full() ? std::vector<int>{0, 2} : std::vector<int>{usual}; }
void wait_a_moment(std::uint64_t round) {
  Rng rng(derive_seed(3, "moment", {round}));
  sleep_for(rng.uniform() * 0.5);
}

}  // namespace

TEST(DeadRank, KilledIsNamedAtOnce) {
  for (int round = 0; round < rounds(); ++round)
    for (const int rank : victims(1)) {
      Job job;
      ASSERT_TRUE(job.reach(3)) << job.output();
      wait_a_moment(static_cast<std::uint64_t>(round));
      job.signal(rank, SIGKILL);
      expect_named_end(job, rank, "its process is gone", kAllowed);
    }
}

TEST(DeadRank, StoppedIsNamedAfterTheTimeout) {
  for (int round = 0; round < rounds(); ++round)
    for (const int rank : victims(0)) {
      Job job;
      ASSERT_TRUE(job.reach(3)) << job.output();
      wait_a_moment(static_cast<std::uint64_t>(round));
      job.signal(rank, SIGSTOP);
      expect_named_end(job, rank, "its process is stopped", kTimeout + kAllowed);
      EXPECT_EQ(job.exit_code(), 70);
    }
}

TEST(DeadRank, HangingIsNamedAfterTheTimeout) {
  Job job({"1"});
  ASSERT_TRUE(job.reach(4)) << job.output();
  expect_named_end(job, 1, "it is alive, but has not come to the call", kTimeout + kAllowed);
  EXPECT_EQ(job.exit_code(), 70);
}

TEST(DeadRank, AJobThatIsStoppedAsAWholeGoesOn) {
  Job job;
  ASSERT_TRUE(job.reach(3)) << job.output();
  for (int rank = 0; rank < kRanks; ++rank) job.signal(rank, SIGSTOP);
  sleep_for(kTimeout + 3);
  for (int rank = 0; rank < kRanks; ++rank) job.signal(rank, SIGCONT);
  const std::int64_t step = job.step_of(0);
  EXPECT_TRUE(job.reach(step + 3)) << job.output();
  for (int rank = 0; rank < kRanks; ++rank) job.signal(rank, SIGTERM);
  EXPECT_LE(job.wait(20), 20) << job.output();
  EXPECT_EQ(job.output().find("is lost"), std::string::npos) << job.output();
  EXPECT_EQ(job.left_processes(), 0);
}

}  // namespace divergen

int main(int argc, char** argv) {
  divergen::own_path = std::filesystem::canonical("/proc/self/exe").string();
  if (argc > 1 && std::string_view(argv[1]) == "--rank") return divergen::run_rank(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
