// repair removes exactly what is bad, and what is made again is what was there.

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "store/inspect.hpp"
#include "store/library.hpp"
#include "support/fixtures.hpp"
#include "support/full.hpp"
#include "support/library_cases.hpp"

namespace divergen::store {
namespace {

constexpr int kShards = 6, kRows = 5;

std::string name_of(int shard) { return cat("shard-", shard, ".h5"); }

void make_missing(const Path& folder, const std::vector<Instance>& all) {
  for (int s = 0; s < kShards; ++s)
    if (!std::filesystem::exists(folder / name_of(s)))
      write_library_shard(folder / name_of(s), {all.begin() + s * kRows, all.begin() + (s + 1) * kRows},
                          test::tables());
  if (!std::filesystem::exists(folder / "index.h5")) write_library_index(folder);
}

std::map<std::string, std::string> contents(const Path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    out[entry.path().filename().string()] = read_file(entry.path());
  return out;
}

}  // namespace

TEST(Repair, RemovesExactlyTheBadFilesWhichAreMadeAgainByteForByte) {
  const test::TemporaryFolder folder;
  const auto all = test::instances(kShards * kRows);
  make_missing(folder.path(), all);
  const auto good = contents(folder.path());
  Rng rng(77);
  for (int round = 0; round < test::times(25, 200); ++round) {
    std::set<std::string> damaged;
    for (std::uint64_t n = 0; n <= rng.below(3); ++n) {
      auto one = good.begin();
      std::advance(one, static_cast<std::ptrdiff_t>(rng.below(good.size())));
      std::string bytes = one->second;
      if (rng.below(4) == 0) {
        bytes.resize(rng.below(bytes.size()));
      } else {
        bytes[rng.below(bytes.size())] ^= static_cast<char>(1U << rng.below(8));
      }
      std::filesystem::remove(folder / one->first);
      write_file_atomic(folder / one->first, bytes);
      damaged.insert(one->first);
    }

    const RunReport report = verify_run(folder.path(), 3);
    const auto removed = repair_run(folder.path(), report);

    std::set<std::string> names;
    for (const Repaired& one : removed) names.insert(one.file.filename().string());
    EXPECT_EQ(names, damaged) << "round " << round;
    for (const auto& [name, bytes] : contents(folder.path())) EXPECT_EQ(bytes, good.at(name)) << "untouched";
    make_missing(folder.path(), all);
    ASSERT_EQ(contents(folder.path()), good) << "round " << round;
    ASSERT_TRUE(verify_run(folder.path()).problems.empty());
  }
}

TEST(Repair, TheReportDoesNotDependOnTheNumberOfThreads) {
  const test::TemporaryFolder folder;
  make_missing(folder.path(), test::instances(kShards * kRows));
  for (const int s : {1, 4}) {
    std::string bytes = read_file(folder / name_of(s));
    bytes[bytes.size() / 2] ^= 4;
    write_file_atomic(folder / name_of(s), bytes);
  }
  const auto one = verify_run(folder.path(), 1).to_json();
  EXPECT_GE(one.at("problems").size(), 2u);
  for (const int threads : {2, 5, 16}) EXPECT_EQ(verify_run(folder.path(), threads).to_json(), one) << threads;
}

}  // namespace divergen::store
