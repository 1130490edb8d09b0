#include "stages/common/run_directory.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

class Records : public ::testing::Test {
 protected:
  Records() : dir_(std::filesystem::temp_directory_path() / cat("divergen-records-", ::getpid())) {
    std::filesystem::remove_all(dir_.root());
  }
  ~Records() override {
    std::error_code ignored;
    std::filesystem::remove_all(dir_.root(), ignored);
  }
  RunDirectory dir_;
};

TEST_F(Records, ComeBackAsWritten) {
  StageRecord record;
  record.stage = "train.baseline";
  record.fingerprint = "abc";
  record.seconds = 12.25;
  record.items = 77;
  record.rejected = {{"mask_too_small", 3}};
  record.ranks = {{1, "node7", 40, 11.5, 1e9, 1e9 + 12}};
  record.figures = {{"bytes", 1e9}};
  EXPECT_FALSE(read_record(dir_, record.stage));
  write_record(dir_, record);
  const auto read = read_record(dir_, record.stage);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->stage, record.stage);
  EXPECT_EQ(read->fingerprint, record.fingerprint);
  EXPECT_EQ(read->seconds, record.seconds);
  EXPECT_EQ(read->items, record.items);
  EXPECT_EQ(read->rejected, record.rejected);
  EXPECT_EQ(read->figures, record.figures);
  ASSERT_EQ(read->ranks.size(), 1u);
  EXPECT_EQ(read->ranks[0].host, "node7");
  EXPECT_EQ(read->ranks[0].busy_seconds, 11.5);
  EXPECT_EQ(read->ranks[0].end, 1e9 + 12);
}

TEST_F(Records, AreInTheOrderOfTheStages) {
  EXPECT_TRUE(read_records(dir_).empty());
  for (const char* stage : {"evaluate.b", "odd", "pool", "train.b", "generate", "train.a", "plan"}) {
    StageRecord record;
    record.stage = stage;
    write_record(dir_, record);
  }
  EXPECT_EQ(recorded_stages(dir_),
            (std::vector<std::string>{"plan", "generate", "pool", "train.a", "train.b", "evaluate.b", "odd"}));
  EXPECT_EQ(read_records(dir_).size(), 7u);
}

TEST_F(Records, ThatAreDamagedAreNamed) {
  make_folder(dir_.root() / "stages");
  for (const char* text : {"{", "[]", "{\"schema\":1,\"stage\":\"plan\"}", "{\"schema\":9}"}) {
    write_file_atomic(dir_.record("plan"), text);
    try {
      read_record(dir_, "plan");
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Data);
      EXPECT_NE(error.text().object.find("plan.json"), std::string::npos);
    }
  }
}

/// A rank that was killed while it wrote the plan or a stage's record left its part there for good (kill9_generate).
TEST_F(Records, HalfWrittenOnesOfKilledStartsAreSwept) {
  write_record(dir_, {.stage = "plan"});
  make_folder(dir_.root() / "progress");
  for (const Path& of : {dir_.plan(), dir_.record("generate"), dir_.root() / "progress/generate.json"})
    write_file_atomic(part_name(of), "half");
  EXPECT_EQ(sweep_run_folder(dir_), 3u);
  EXPECT_EQ(sweep_run_folder(dir_), 0u);
  EXPECT_TRUE(read_record(dir_, "plan")) << "whole files stay";
  EXPECT_FALSE(std::filesystem::exists(dir_.plan()));
}

TEST(RunDirectoryPaths, AreAsDocumented) {
  const RunDirectory dir("runs/x");
  EXPECT_EQ(dir.shard("generate", 12), Path("runs/x/generate/shard-000012.h5"));
  EXPECT_EQ(dir.record("train.a"), Path("runs/x/stages/train.a.json"));
}

}  // namespace
}  // namespace divergen::stages
