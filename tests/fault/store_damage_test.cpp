// Flipped bits and cut files: every read either fails by name or gives what was written.

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "store/inspect.hpp"
#include "store/library.hpp"
#include "store/table_file.hpp"
#include "support/fixtures.hpp"
#include "support/library_cases.hpp"

namespace divergen::store {
namespace {

class DamagedShard : public testing::Test {
 protected:
  DamagedShard() {
    write_library_shard(shard, all, test::tables());
    write_library_index(folder.path());
    good = read_file(shard);
  }
  /// In place: the damage is the test's own, not the disk's.
  void overwrite(const std::string& bytes) const {
    std::filesystem::remove(shard);
    write_file_atomic(shard, bytes);
  }
  static bool equal(const Instance& a, const Instance& b) {
    return a.png == b.png && a.item_id == b.item_id && record_hash(a, test::tables()) == record_hash(b, test::tables());
  }

  test::TemporaryFolder folder;
  const Path shard = folder / "shard-0.h5";
  const std::vector<Instance> all = test::instances(6);
  std::string good;
};

}  // namespace

TEST_F(DamagedShard, EveryFlippedBitIsDetected) {
  Rng rng(500);
  int detected = 0, rows_named = 0;
  for (int n = 0; n < 500; ++n) {
    std::string bytes = good;
    const std::uint64_t bit = rng.below(bytes.size() * 8);
    bytes[bit / 8] ^= static_cast<char>(1u << (bit % 8));
    overwrite(bytes);
    try {
      read_library_shard(shard);
    } catch (const Error& error) {
      ++detected;
      EXPECT_EQ(error.kind(), ErrorKind::Data) << error.what();
      EXPECT_NE(std::string(error.what()).find("shard-0.h5"), std::string::npos) << error.what();
    }
    const auto problems = check_table(shard);
    EXPECT_FALSE(problems.empty());
    rows_named += !problems.empty() && problems[0].row.has_value();
  }
  EXPECT_EQ(detected, 500);
  EXPECT_GT(rows_named, 50) << "flips within a picture are put down to its row";
}

TEST_F(DamagedShard, FlippedBitsAreNeverReadSilentlyThroughTheIndex) {
  Rng rng(501);
  const Library before(folder.path());
  std::vector<Instance> expected;
  for (std::size_t i = 0; i < before.size(); ++i) expected.push_back(before.read(i));
  int detected = 0;
  for (int n = 0; n < 200; ++n) {
    std::string bytes = good;
    const std::uint64_t bit = rng.below(bytes.size() * 8);
    bytes[bit / 8] ^= static_cast<char>(1u << (bit % 8));
    overwrite(bytes);
    const Library library(folder.path());
    for (std::size_t i = 0; i < library.size(); ++i) {
      try {
        ASSERT_TRUE(equal(library.read(i), expected[i])) << "bit " << bit;
      } catch (const Error&) {
        ++detected;
      }
    }
  }
  EXPECT_GT(detected, 100);
}

TEST_F(DamagedShard, CutFilesAreRefused) {
  Rng rng(100);
  for (int n = 0; n < 100; ++n) {
    overwrite(good.substr(0, rng.below(good.size())));
    EXPECT_THROW(read_library_shard(shard), Error);
    EXPECT_FALSE(verify_run(folder.path()).problems.empty());
  }
}

TEST_F(DamagedShard, ADamagedIndexIsRefused) {
  const Path index = folder / "index.h5";
  const std::string bytes = read_file(index);
  const std::string hash = Library(folder.path()).hash();
  Rng rng(7);
  int detected = 0;
  for (int n = 0; n < 150; ++n) {
    std::string damaged = bytes;
    const std::uint64_t bit = rng.below(bytes.size() * 8);
    damaged[bit / 8] ^= static_cast<char>(1u << (bit % 8));
    write_file_atomic(index, damaged);
    try {
      const Library library(folder.path());
      EXPECT_EQ(library.hash(), hash);
      EXPECT_EQ(library.size(), all.size());
      for (std::size_t i = 0; i < library.size(); ++i) library.read_png(i);
    } catch (const Error&) {
      ++detected;
    }
  }
  EXPECT_EQ(detected, 150);
}

}  // namespace divergen::store
