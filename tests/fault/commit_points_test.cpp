// kill -9 at each point of the commit protocol (reference/reliability.md §4, kill9_in_commit): nothing bad is
// published, and the same work started again ends in the same library.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.hpp"
#include "base/fault.hpp"
#include "store/library.hpp"
#include "support/full.hpp"
#include "support/library_cases.hpp"
#include "support/memory_folder.hpp"

namespace divergen::store {
namespace {

constexpr int kShards = 4, kRows = 6;

/// What a rank does: makes the shards that are not there, notes each in the journal, then the index and a record.
void work(const Path& folder, const std::vector<Instance>& all) {
  for (int s = 0; s < kShards; ++s) {
    const Path file = folder / cat("shard-", s, ".h5");
    if (std::filesystem::exists(file) && !verify_table(file)) continue;
    write_library_shard(file, {all.begin() + s * kRows, all.begin() + (s + 1) * kRows}, test::tables());
    append_line(folder / "journal", cat("shard ", s));
  }
  write_library_index(folder);
  write_file_atomic(folder / "record.json", "{\"done\": true}\n");
}

/// In a process of its own. Returns its status.
int in_child(const Path& folder, const std::vector<Instance>& all, const std::string& point, int hit) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      if (!point.empty()) fault::arm(point, fault::Action::Kill, hit);
      work(folder, all);
    } catch (...) {
      ::_exit(3);
    }
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

struct Point {
  const char* name;
  int hits;  // how often one run of work() reaches it
};

// Every fault::reach() of writing tables, files and journals.
constexpr Point kPoints[] = {
    {"shard.start", kShards + 1},
    {"shard.created", kShards + 1},
    {"shard.columns_written", kShards + 1},
    {"shard.heap_written", kShards + 1},
    {"shard.before_close", kShards + 1},
    {"shard.closed", kShards + 1},
    {"shard.sealed", kShards + 1},
    {"shard.verified", kShards + 1},
    {"commit.before_sync", kShards + 2},
    {"commit.synced", kShards + 2},
    {"commit.renamed", kShards + 2},
    {"commit.folder_synced", kShards + 2},
    {"journal.append", kShards},
    {"file.created", 1},
    {"file.written", 1},
};

}  // namespace

TEST(KillAtEachPoint, LosesNothingAndPublishesNothingBad) {
  const std::vector<Instance> all = test::instances(kShards * kRows);
  const test::MemoryFolder reference;
  work(reference.path(), all);
  const std::string hash = Library(reference.path()).hash();
  int killed = 0, rounds = 0;
  std::size_t swept = 0;
  for (const Point& point : kPoints)
    for (int round = 0; round < test::times(6, 20); ++round) {
      const test::MemoryFolder place;
      const int status = in_child(place.path(), all, point.name, 1 + round % point.hits);
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << point.name << " was not reached";
      ++killed;
      ++rounds;
      swept += sweep_parts(place.path());
      for (const Path& shard : library_shards(place.path())) {
        const auto problem = verify_table(shard);
        ASSERT_FALSE(problem.has_value()) << point.name << ": " << *problem;
      }
      ASSERT_EQ(in_child(place.path(), all, "", 1), 0) << point.name;
      ASSERT_EQ(Library(place.path()).hash(), hash) << point.name;
      for (int s = 0; s < kShards; ++s) {
        const std::string name = cat("shard-", s, ".h5");
        ASSERT_EQ(read_file(place / name), read_file(reference / name)) << point.name;
      }
      ASSERT_EQ(read_file(place / "record.json"), "{\"done\": true}\n");
    }
  EXPECT_EQ(killed, rounds);
  EXPECT_GT(swept, 0u) << "some kills leave parts behind, which the next start sweeps";
  RecordProperty("kills", killed);
}

}  // namespace divergen::store
