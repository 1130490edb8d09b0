// Promise 1 of the design: the same instances on any number of ranks, in whatever order the shards are claimed
// (reference/reliability.md §6, determinism_order). The size of a batch is a setting, of which membership follows: for
// each size by itself the records are the same, whoever makes them. Other sizes may differ in last bits (kernels sum in
// another order), and do so by no more than a grey level.

#include <gtest/gtest.h>

#include <iostream>
#include <set>

#include "stages/common/sharded.hpp"
#include "store/library.hpp"
#include "support/full.hpp"
#include "support/tiny_study.hpp"

namespace divergen::stages {
namespace {

const std::vector<std::string> kItems{"samples=4", "shard_items=2"};  // 12 + 5 items in 9 shards

class mpi_order : public testing::Test {
 protected:
  static void SetUpTestSuite() { study_ = std::make_unique<test::TinyStudy>(DIVERGEN_MPIEXEC); }
  static void TearDownTestSuite() { study_.reset(); }

  static void make(const std::string& name, int ranks, std::vector<std::string> changes) {
    changes.insert(changes.end(), kItems.begin(), kItems.end());
    ASSERT_EQ(study_->run(ranks, name, "pgafl", changes), 0) << study_->output();
  }
  /// Record hash of each instance, by item.
  static std::map<std::uint64_t, std::uint64_t> records(const std::string& name) {
    const store::Library library(study_->directory(name).library());
    std::map<std::uint64_t, std::uint64_t> out;
    for (const store::Library::Entry entry : library.entries()) out[entry.item_id] = entry.record_hash;
    EXPECT_EQ(out.size(), library.size()) << "no item twice";
    return out;
  }
  static std::vector<image::Image> pictures(const std::string& name) {
    std::vector<image::Image> out;
    const std::size_t shards = read_plan(study_->directory(name).plan()).shards();
    for (std::size_t s = 0; s < shards; ++s) {
      const store::Table table = read_shard(study_->directory(name), "generate", s, kPicturesFormat);
      for (std::size_t row = 0; row < table.rows(); ++row) out.push_back(*image::decode(table.heap(row)).image);
    }
    return out;
  }

  static std::unique_ptr<test::TinyStudy> study_;
};
std::unique_ptr<test::TinyStudy> mpi_order::study_;

}  // namespace

TEST_F(mpi_order, RanksAndClaimOrderDecideNothing) {
  make("one", 1, {});
  const auto expected = study_->hashes("one");
  const auto expected_records = records("one");
  ASSERT_GT(expected_records.size(), 5u) << "random models leave some masks empty, not all";
  for (int ranks = 1; ranks <= 4; ++ranks)
    for (int order = 1; order <= test::times(1, 5); ++order) {
      const std::string name = cat("ranks", ranks, "-", order);
      make(name, ranks, {cat("shuffle=", 100 * ranks + order)});
      EXPECT_EQ(study_->hashes(name), expected) << ranks << " ranks, order " << order;
      EXPECT_EQ(records(name), expected_records) << ranks << " ranks, order " << order;
    }
}

TEST_F(mpi_order, OfEachBatchSize) {
  std::map<std::uint64_t, std::uint64_t> first;
  std::vector<image::Image> first_pictures;
  std::size_t same = 0, all = 0;
  int worst = 0;
  for (const int batch : test::is_full() ? std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8} : std::vector<int>{1, 8}) {
    const std::string alone = cat("batch", batch), shared = alone + "-shared";
    const std::vector<std::string> sizes{cat("batch=", batch), cat("filter_batch=", batch)};
    make(alone, 1, sizes);
    make(shared, 2 + batch % 3, {sizes[0], sizes[1], cat("shuffle=", batch)});
    EXPECT_EQ(study_->hashes(shared), study_->hashes(alone)) << "batches of " << batch;
    const auto own = records(alone);
    EXPECT_EQ(records(shared), own) << "batches of " << batch;
    if (first.empty()) {
      first = own;
      first_pictures = pictures(alone);
      continue;
    }
    // Against the first size: the same items, and pictures that nobody could tell apart.
    const std::vector<image::Image> others = pictures(alone);
    ASSERT_EQ(others.size(), first_pictures.size());
    for (std::size_t i = 0; i < others.size(); ++i) {
      ASSERT_EQ(others[i].pixels.size(), first_pictures[i].pixels.size());
      for (std::size_t k = 0; k < others[i].pixels.size(); ++k)
        worst = std::max(worst, std::abs(others[i].pixels[k] - first_pictures[i].pixels[k]));
    }
    for (const auto& [item, hash] : own) {
      const auto found = first.find(item);
      same += found != first.end() && found->second == hash;
      ++all;
    }
  }
  EXPECT_LE(worst, 1) << "grey levels between batch sizes";
  std::cout << "batch sizes: " << same << " of " << all << " records have the very same bits as in the first size, "
            << "pixels differ by at most " << worst << "\n";
}

}  // namespace divergen::stages

int main(int argc, char** argv) { return divergen::test::tiny_study_main(argc, argv); }
