// A full disk: a NoSpace error, the old file untouched, nothing left behind. Needs the right to mount a small tmpfs in
// an own namespace (root); skipped elsewhere.

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.hpp"
#include "store/library.hpp"
#include "support/fixtures.hpp"
#include "support/library_cases.hpp"

namespace divergen::store {
namespace {

enum Outcome { kGood = 0, kCannotMount = 10, kWrongError, kOldFileLost, kPartLeft, kNeverFull, kNoRecovery };

Table table_of(std::size_t bytes, std::uint64_t seed) {
  Rng rng(seed);
  Table table("divergen-test", 1);
  std::vector<std::string> heap(bytes / 4096 + 1, std::string(4096, '\0'));
  std::vector<std::uint64_t> index(heap.size());
  for (std::size_t i = 0; i < heap.size(); ++i) {
    index[i] = rng.next64();
    for (char& c : heap[i]) c = static_cast<char>(rng.below(256));
  }
  table.add("index", std::move(index));
  table.set_heap(heap);
  return table;
}

/// In a child of its own, whose mount goes with it.
int fill_small_disk(const Path& folder) {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=2m") != 0)
    return kCannotMount;
  const Path file = folder / "shard-0.h5";
  const Table old = table_of(100'000, 1);
  write_table(old, file);
  int refused = 0, in_the_middle = 0;
  for (int step = 1; step <= 40; ++step) {
    // Other files take the room away: by turns far too little is left, or just about enough, so that the end of space
    // falls at many points of the writing.
    const bool is_close = step % 2 == 0;
    const std::size_t size = is_close ? 400'000 : static_cast<std::size_t>(step) * 60'000;
    const Table next = table_of(size, 100 + static_cast<std::uint64_t>(step));
    const std::uint64_t keep =
        is_close ? next.rows() * (4096 + 8) + 4096 * static_cast<std::uint64_t>(step / 2) : 1'000'000;
    const std::uint64_t room = free_bytes(folder);
    write_file_atomic(folder / "ballast", std::string(room > keep ? room - keep : 0, 'b'));
    try {
      write_table(next, folder / "shard-1.h5");
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::NoSpace) {
        std::fprintf(stderr, "%s\n", error.what());
        return kWrongError;
      }
      ++refused;
      in_the_middle += error.text().why.find("it takes") == std::string::npos;
    }
    remove_quietly(folder / "shard-1.h5");
    remove_quietly(folder / "ballast");
    if (sweep_parts(folder) != 0) return kPartLeft;
    if (read_table(file).table_hash() != old.table_hash()) return kOldFileLost;
  }
  std::fprintf(stderr, "disk full: %d of 40 writes refused, %d of them in the middle\n", refused, in_the_middle);
  if (refused < 15 || in_the_middle < 3) return kNeverFull;
  write_table(table_of(100'000, 2), file);
  return read_table(file).table_hash() == table_of(100'000, 2).table_hash() ? kGood : kNoRecovery;
}

}  // namespace

TEST(DiskFull, IsANoSpaceErrorThatKeepsTheOldFile) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may mount a small file system";
  const test::TemporaryFolder folder;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int outcome = 99;
    try {
      outcome = fill_small_disk(folder.path());
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    ::_exit(outcome);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kCannotMount) GTEST_SKIP() << "a small file system cannot be mounted here";
  EXPECT_EQ(WEXITSTATUS(status), kGood);
}

}  // namespace divergen::store
