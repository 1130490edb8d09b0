// kill -9 while shards are written: whatever is published is whole (design §3.2).

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <set>
#include <thread>

#include "base/error.hpp"
#include "store/library.hpp"
#include "support/library_cases.hpp"
#include "support/memory_folder.hpp"

namespace divergen::store {
namespace {

constexpr int kRounds = 220, kFiles = 3, kVariants = 4;

/// Writes variants over the same few files until it is killed. Tells through `ready` when it has begun.
[[noreturn]] void write_forever(const Path& folder, const std::vector<Table>& variants, int round, int ready) {
  try {
    for (int n = 0;; ++n) {
      const int variant = (round + n) % kVariants;
      if (n == 0 && ::write(ready, "x", 1) != 1) ::_exit(2);
      write_table(variants[static_cast<std::size_t>(variant)], folder / cat("shard-", (round + n) % kFiles, ".h5"));
    }
  } catch (...) {
    ::_exit(3);
  }
}

}  // namespace

TEST(KillWhileWriting, NeverLeavesABadPublishedShard) {
  const test::MemoryFolder folder;
  std::vector<Table> variants;
  std::set<std::uint64_t> hashes;
  const auto all = test::instances(12 * kVariants);
  for (int v = 0; v < kVariants; ++v) {
    variants.push_back(make_library_table({all.begin() + 12 * v, all.begin() + 12 * (v + 1)}, test::tables()));
    hashes.insert(variants.back().table_hash());
  }
  // The kills fall anywhere in the first few writes, however fast this machine is now.
  const auto start = std::chrono::steady_clock::now();
  for (int n = 0; n < kFiles; ++n) write_table(variants[0], folder / cat("shard-", n, ".h5"));
  const auto span = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  Rng rng(20);
  std::size_t parts = 0, checked = 0;

  for (int round = 0; round < kRounds; ++round) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) write_forever(folder.path(), variants, round, pipe[1]);
    ::close(pipe[1]);
    char byte = 0;
    ASSERT_EQ(::read(pipe[0], &byte, 1), 1);
    ::close(pipe[0]);
    std::this_thread::sleep_for(std::chrono::microseconds(rng.below(static_cast<std::uint64_t>(span.count()) + 1000)));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer failed by itself, code " << WEXITSTATUS(status);

    parts += sweep_parts(folder.path());
    for (const Path& file : library_shards(folder.path())) {
      const auto problem = verify_table(file);
      ASSERT_FALSE(problem.has_value()) << "round " << round << ": " << *problem;
      ASSERT_TRUE(hashes.count(read_table_head(file).table_hash) == 1) << "neither the old nor a new shard";
      ++checked;
    }
  }

  // Otherwise the kills did not fall where it matters.
  EXPECT_GT(parts, static_cast<std::size_t>(kRounds / 4)) << "kills in the middle of a write";
  EXPECT_GT(checked, static_cast<std::size_t>(kRounds));
  RecordProperty("killed_while_writing", static_cast<int>(parts));
}

}  // namespace divergen::store
