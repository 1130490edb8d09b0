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

/// A library that grows until a small disk is full, then goes on when there is room again.
int fill_disk_of(const Path& folder, int kilobytes, int& published) {
  if (::mount("tmpfs", folder.c_str(), "tmpfs", 0, cat("size=", kilobytes, "k").c_str()) != 0) return kCannotMount;
  const std::size_t item = 16384;  // as the measured case: rows of 16 KiB
  int outcome = kNeverFull;
  published = 0;
  for (int n = 0; n < 200; ++n) {
    const std::uint64_t room = free_bytes(folder);
    try {
      write_table(table_of(item * static_cast<std::size_t>(4 + n % 9), static_cast<std::uint64_t>(n)),
                  folder / cat("shard-", n, ".h5"));
      ++published;
    } catch (const Error& error) {
      // An error with much room left would be another one: a shard, twice over, and a page for each of its parts.
      outcome = error.kind() != ErrorKind::NoSpace || exit_code(error.kind()) != 74 || room > 3 * item * 13
                    ? kWrongError
                    : kGood;
      if (outcome == kWrongError) std::fprintf(stderr, "%s\n", error.what());
      break;
    }
  }
  if (outcome == kGood && sweep_parts(folder) != 0) outcome = kPartLeft;
  for (const Path& shard : library_shards(folder))
    if (outcome == kGood && verify_table(shard)) outcome = kOldFileLost;
  if (outcome == kGood) {
    std::filesystem::remove(folder / "shard-0.h5");
    std::filesystem::remove(folder / "shard-1.h5");
    write_table(table_of(item * 4, 0), folder / "shard-0.h5");
    if (verify_table(folder / "shard-0.h5")) outcome = kNoRecovery;
  }
  ::umount2(folder.c_str(), MNT_DETACH);
  return outcome;
}

int fill_disks_of_many_sizes(const Path& folder) {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return kCannotMount;
  int all = 0;
  for (int n = 0; n < 40; ++n) {
    int published = 0;
    const int kilobytes = 1024 + n * 7 * 1024 / 39;  // 1 to 8 MiB
    const int outcome = fill_disk_of(folder, kilobytes, published);
    if (outcome != kGood) {
      std::fprintf(stderr, "disk of %d KiB, after %d shards: outcome %d\n", kilobytes, published, outcome);
      return outcome;
    }
    all += published;
  }
  std::fprintf(stderr, "disk full: 40 sizes, %d shards published, all whole\n", all);
  return kGood;
}

/// Runs it in a child of its own. Returns what it returned.
int in_child(int (*work)(const Path&), const Path& folder) {
  const pid_t child = ::fork();
  if (child == 0) {
    int outcome = 99;
    try {
      outcome = work(folder);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    ::_exit(outcome);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

}  // namespace

TEST(DiskFull, OfFortySizesPublishesNothingBad) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may mount a small file system";
  const test::TemporaryFolder folder;
  const int outcome = in_child(&fill_disks_of_many_sizes, folder.path());
  if (outcome == kCannotMount) GTEST_SKIP() << "a small file system cannot be mounted here";
  EXPECT_EQ(outcome, kGood);
}

TEST(DiskFull, IsANoSpaceErrorThatKeepsTheOldFile) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may mount a small file system";
  const test::TemporaryFolder folder;
  const int outcome = in_child(&fill_small_disk, folder.path());
  if (outcome == kCannotMount) GTEST_SKIP() << "a small file system cannot be mounted here";
  EXPECT_EQ(outcome, kGood);
}

}  // namespace divergen::store
