// plan -> generate -> annotate -> filter on tiny models with the official layouts: the same rows on 1, 2 and 3 ranks,
// after losing shards, and clear ends when something is missing. The program starts itself under mpiexec.

#include <gtest/gtest.h>

#include "stages/common/sharded.hpp"
#include "stages/filter/reference.hpp"
#include "stages/filter/verdict.hpp"
#include "support/tiny_study.hpp"

namespace divergen::stages {
namespace {

class mpi_stages : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    study_ = std::make_unique<test::TinyStudy>(DIVERGEN_MPIEXEC);
    ASSERT_EQ(run(1, "one", "pgaf"), 0) << output_;
  }
  static void TearDownTestSuite() { study_.reset(); }

  /// Exit code of the stages on `ranks` ranks in the run directory `name`; what they print goes to output_.
  static int run(int ranks, const std::string& name, const std::string& stages,
                 const std::vector<std::string>& changes = {}) {
    const int code = study_->run(ranks, name, stages, changes);
    output_ = study_->output();
    return code;
  }
  static RunDirectory directory(const std::string& name) { return study_->directory(name); }
  static std::map<std::string, std::uint64_t> hashes(const std::string& name) { return study_->hashes(name); }
  static void copy_run(const std::string& name) {
    std::filesystem::copy(study_->path("one"), study_->path(name), std::filesystem::copy_options::recursive);
  }

  static std::unique_ptr<test::TinyStudy> study_;
  static std::string output_;
};
std::unique_ptr<test::TinyStudy> mpi_stages::study_;
std::string mpi_stages::output_;

// 3 categories x 2 samples of the first generator, 3 + 2 prompts of the second: shards of 3.
constexpr std::int64_t kItems = 11;
constexpr std::size_t kShards = 4;

}  // namespace

TEST_F(mpi_stages, AllItemsGoThroughAllStages) {
  const auto filter = read_record(directory("one"), "filter");
  ASSERT_TRUE(filter);
  EXPECT_EQ(filter->items, kItems);
  std::int64_t rows = 0, kept = 0;
  for (std::size_t s = 0; s < kShards; ++s) {
    const store::Table verdicts = read_shard(directory("one"), "filter", s, kVerdictsFormat);
    const store::Table pictures = read_shard(directory("one"), "generate", s, kPicturesFormat);
    EXPECT_EQ(verdicts.get<std::uint64_t>("item_id"), pictures.get<std::uint64_t>("item_id"));
    rows += static_cast<std::int64_t>(verdicts.rows());
    auto counts = count_reasons(verdicts);
    kept += counts["kept"];
    for (std::size_t row = 0; row < verdicts.rows(); ++row) {
      const float similarity = verdicts.get<float>("similarity")[row];
      const bool is_extra = pictures.get<std::int32_t>("category")[row] == 900;
      EXPECT_TRUE(is_extra ? similarity == kNoSimilarity : similarity > -1 && similarity <= 1) << similarity;
      EXPECT_EQ(image::decode(pictures.heap(row)).image->width, 64);
    }
  }
  EXPECT_EQ(rows, kItems);
  EXPECT_EQ(filter->figures.at("kept"), static_cast<double>(kept));
}

TEST_F(mpi_stages, CropsOfADamagedPictureAreLeftOutAndCounted) {
  const store::Table reference = store::read_table(directory("one").reference());
  const auto record = read_record(directory("one"), "filter.reference");

  EXPECT_EQ(reference.get<std::int64_t>("crops"), (std::vector<std::int64_t>{12, 12}));
  ASSERT_TRUE(record);
  EXPECT_EQ(record->rejected, (std::map<std::string, std::int64_t>{{"unreadable_picture", 8}}));
}

TEST_F(mpi_stages, RowsAreTheSameOnAnyNumberOfRanks) {
  const auto expected = hashes("one");
  EXPECT_EQ(expected.size(), 1 + 4 * kShards + 1 + 1);  // plan, four folders of shards, sums of crops, their means

  for (const int ranks : {2, 3}) {
    ASSERT_EQ(run(ranks, cat("np", ranks), "pgaf"), 0) << output_;
    EXPECT_EQ(hashes(cat("np", ranks)), expected) << ranks << " ranks";
  }
}

TEST_F(mpi_stages, WhatWasLostIsMadeAgain) {
  const auto expected = hashes("one");
  copy_run("lost");
  std::filesystem::remove(directory("lost").shard("generate", 1));
  std::filesystem::remove(directory("lost").shard("annotate", 2));
  write_file_atomic(directory("lost").shard("filter", 0), "damaged");
  std::filesystem::remove(directory("lost").record("filter"));  // as if killed before the stage was complete
  std::filesystem::remove(directory("lost").reference());

  ASSERT_EQ(run(2, "lost", "pgaf"), 0) << output_;

  EXPECT_EQ(hashes("lost"), expected);
}

TEST_F(mpi_stages, OtherBoundsMakeVerdictsAgainButNotScores) {
  copy_run("strict");
  const Path scores = directory("strict").shard("filter.scores", 0), verdicts = directory("strict").shard("filter", 0);
  const auto scored = std::filesystem::last_write_time(scores), judged = std::filesystem::last_write_time(verdicts);

  ASSERT_EQ(run(2, "strict", "f", {"similarity=1"}), 0) << output_;

  EXPECT_EQ(std::filesystem::last_write_time(scores), scored);
  EXPECT_NE(std::filesystem::last_write_time(verdicts), judged);
  EXPECT_GT(read_record(directory("strict"), "filter")->rejected.at("unlike_real_crops"), 0);
}

TEST_F(mpi_stages, ADamagedPictureIsCountedAndTheRunGoesOn) {
  copy_run("torn");
  const Path file = directory("torn").shard("generate", 0);
  store::Table table = store::read_table(file);
  std::vector<std::string> heap;
  for (std::size_t row = 0; row < table.rows(); ++row) heap.emplace_back(table.heap(row));
  heap[1].resize(heap[1].size() / 2);
  table.set_heap(heap);
  store::write_table(table, file);
  std::filesystem::remove(directory("torn").shard("annotate", 0));
  std::filesystem::remove_all(study_->path("torn/filter.scores"));
  std::filesystem::remove(directory("torn").shard("filter", 0));

  ASSERT_EQ(run(2, "torn", "gaf"), 0) << output_;

  EXPECT_EQ(read_record(directory("torn"), "annotate")->rejected.at("unreadable"), 1);
  EXPECT_EQ(read_record(directory("torn"), "filter")->rejected.at("unreadable"), 1);
  EXPECT_NE(output_.find("cannot be read"), std::string::npos);
}

TEST_F(mpi_stages, AnotherPlanIsRefusedWhilePicturesStand) {
  const auto before = hashes("one");

  EXPECT_EQ(run(1, "one", "p", {"samples=3"}), 64);

  EXPECT_NE(output_.find("pictures of another plan"), std::string::npos) << output_;
  EXPECT_EQ(hashes("one"), before);
}

TEST_F(mpi_stages, WhatIsMissingIsNamedBeforeWorkStarts) {
  EXPECT_NE(run(2, "early", "g"), 0);
  EXPECT_NE(output_.find("'plan' is not complete"), std::string::npos) << output_;
  copy_run("missing");
  EXPECT_NE(run(2, "missing", "f", {"clip=/nowhere"}), 0);
  EXPECT_NE(output_.find("/nowhere/config.json"), std::string::npos) << output_;
  EXPECT_NE(run(2, "missing", "f", {"train_images=/nowhere"}), 0);
  EXPECT_NE(output_.find("data.train_images"), std::string::npos) << output_;
  std::filesystem::remove(directory("missing").reference());
  EXPECT_EQ(run(1, "missing", "f", {cat("train_images=", study_->path("data/gpt").string())}), 74) << output_;
  EXPECT_NE(output_.find("train/1.png"), std::string::npos) << output_;
}

}  // namespace divergen::stages

int main(int argc, char** argv) { return divergen::test::tiny_study_main(argc, argv); }
