// kill -9 of a random rank, or of all and their launcher, at random moments of a run from plan to pool on 4 ranks;
// started again until it is done (reference/reliability.md §6, kill9_generate): nothing lost, nothing doubled, nothing
// else, and the record hashes of a run that nobody disturbed. The program starts itself under mpiexec.

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <iostream>
#include <set>
#include <thread>

#include "base/leftovers.hpp"
#include "store/library.hpp"
#include "support/full.hpp"
#include "support/tiny_study.hpp"

namespace divergen::stages {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kRanks = 4;
constexpr const char* kStages = "pgafl";
const std::vector<std::string> kItems{"samples=4", "shard_items=2"};  // 12 + 5 items in 9 shards

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Processes that have this text in their command line: of one run, the launcher and its ranks.
std::vector<pid_t> processes_of(const std::string& text) {
  std::vector<pid_t> out;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    try {
      if (read_file(entry.path() / "cmdline").find(text) != std::string::npos) out.push_back(std::stoi(name));
    } catch (const Error&) {  // it has ended meanwhile
    }
  }
  return out;
}

class KillGenerate : public testing::Test {
 protected:
  /// Every table of the run that has its name is whole.
  void check_published(const std::string& name) {
    std::error_code ignored;
    if (!std::filesystem::exists(study.path(name))) return;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(study.path(name), ignored)) {
      if (entry.path().extension() == ".part") parts.insert(entry.path().string());
      if (entry.path().extension() != ".h5") continue;
      const auto problem = store::verify_table(entry.path());
      ASSERT_FALSE(problem.has_value()) << *problem;
      ++checked;
    }
  }
  /// Item ids of each sharded stage and of the library, in order, none left out.
  std::map<std::string, std::vector<std::uint64_t>> items(const std::string& name) {
    std::map<std::string, std::vector<std::uint64_t>> out;
    const RunDirectory dir = study.directory(name);
    const Plan plan = read_plan(dir.plan());
    out["plan"] = plan.item_id;
    for (const char* stage : {"generate", "annotate", "filter"})
      for (std::size_t s = 0; s < plan.shards(); ++s) {
        const store::Table table = store::read_table(dir.shard(stage, s));
        const auto& ids = table.get<std::uint64_t>("item_id");
        out[stage].insert(out[stage].end(), ids.begin(), ids.end());
      }
    const store::Library library(dir.library());
    for (const store::Library::Entry entry : library.entries()) {
      out["library"].push_back(entry.item_id);
      out["records"].push_back(entry.record_hash);
    }
    return out;
  }

  /// Starts the run and kills at a moment within `seconds`; false when it was done before.
  bool killed(const std::string& name, double seconds) {
    const pid_t launcher = study.start(kRanks, name, kStages, kItems);
    const auto start = Clock::now();
    const double moment = random.uniform(0, seconds);
    int status = 0;
    while (seconds_since(start) < moment) {
      if (::waitpid(launcher, &status, WNOHANG) == launcher) {
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << read_file(study.path("output"));
        return false;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::vector<pid_t> ranks = processes_of(study.path(name).string());
    std::erase(ranks, launcher);
    const bool all = ranks.empty() || random.chance(0.5);
    if (all) {
      ::kill(launcher, SIGKILL);
      // Those that were forked between the look and the kill are found by looking again.
      for (int look = 0; look < 3; ++look)
        for (const pid_t rank : processes_of(study.path(name).string()))
          if (rank != launcher) ::kill(rank, SIGKILL);
    } else {
      ::kill(ranks[random.below(ranks.size())], SIGKILL);
    }
    ++(all ? all_killed : one_killed);
    EXPECT_EQ(::waitpid(launcher, &status, 0), launcher);
    // A killed rank takes the run with it; one that was killed after its last word may not.
    const bool done = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const auto asked = Clock::now();
    while (!processes_of(study.path(name).string()).empty() && seconds_since(asked) < 20)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_TRUE(processes_of(study.path(name).string()).empty()) << "ranks outlive their launcher";
    return !done;
  }

  test::TinyStudy study{DIVERGEN_MPIEXEC};
  Rng random{91};
  int one_killed = 0, all_killed = 0, checked = 0;
  std::set<std::string> parts;
};

}  // namespace

TEST_F(KillGenerate, LosesNothingAndDoublesNothing) {
  const auto start = Clock::now();
  ASSERT_EQ(study.run(kRanks, "whole", kStages, kItems), 0) << study.output();
  const double seconds = seconds_since(start);
  const auto expected_items = items("whole");
  const auto expected_hashes = study.hashes("whole");
  ASSERT_GT(expected_items.at("library").size(), 5u);
  ASSERT_EQ(std::set<std::uint64_t>(expected_items.at("plan").begin(), expected_items.at("plan").end()).size(), 17u);

  const int rounds = test::times(6, 200);
  int round = 0, runs = 0;
  std::size_t swept = 0;
  while (round < rounds) {
    const std::string name = cat("run", runs++);
    bool is_done = false;
    while (round < rounds && !is_done) {
      is_done = !killed(name, 1.1 * seconds);
      ASSERT_FALSE(HasFailure()) << "round " << round;
      if (is_done) break;
      ++round;
      check_published(name);
      ASSERT_FALSE(HasFailure()) << "round " << round;
      sweep_leftovers(0);  // as the next start of the driver does, and so the next
      sweep_run_folder(study.directory(name));
    }
    if (!is_done) {
      ASSERT_EQ(study.run(kRanks, name, kStages, kItems), 0) << study.output();
    }
    ASSERT_EQ(items(name), expected_items) << "after round " << round;
    ASSERT_EQ(study.hashes(name), expected_hashes) << "after round " << round;
    const std::set<std::string> before = std::exchange(parts, {});
    check_published(name);
    ASSERT_EQ(parts, std::set<std::string>{}) << "parts of killed starts are swept by the next one";
    swept += before.size();
    std::filesystem::remove_all(study.path(name));
  }
  std::cout << "kill9_generate: " << round << " kills (" << one_killed << " of one rank, " << all_killed
            << " of all) in " << runs << " runs of " << seconds << " s: 0 lost, 0 doubled, 0 extra; " << checked
            << " published tables checked in between, " << swept << " parts left and swept\n";
}

}  // namespace divergen::stages

int main(int argc, char** argv) { return divergen::test::tiny_study_main(argc, argv); }
