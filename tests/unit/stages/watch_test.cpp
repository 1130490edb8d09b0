#include "stages/common/watch.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.hpp"
#include "stages/common/starts.hpp"

namespace divergen::stages {
namespace {

class Watch : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / cat("divergen-watch-", ::getpid());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void touch(const Path& file) {
    std::filesystem::create_directories((root_ / file).parent_path());
    write_file_atomic(root_ / file, "x");
  }
  void record(const std::string& stage, std::int64_t items, std::map<std::string, std::int64_t> rejected = {}) {
    StageRecord r;
    r.stage = stage;
    r.fingerprint = "f";
    r.seconds = 12.5;
    r.items = items;
    r.rejected = std::move(rejected);
    write_record(dir(), r);
  }
  RunDirectory dir() const { return RunDirectory(root_); }

  Path root_;
};

comm::ProgressView view_of(const std::string& stage, std::int64_t done, std::int64_t total) {
  comm::ProgressView view;
  view.stage = stage;
  view.done = done;
  view.total = total;
  view.rate = 2;
  return view;
}

TEST_F(Watch, CountsShardsOfAStageAndItsParts) {
  EXPECT_EQ(committed_units(dir(), "filter"), 0);
  touch("filter/shard-000000.h5");
  touch("filter.scores/shard-000000.h5");
  touch("filter.scores/shard-000001.h5");
  touch("filter.scores/shard-000002.h5.17-1.part");  // of a killed start: nothing
  touch("filter/reference.h5");
  touch("filtered/shard-000000.h5");
  EXPECT_EQ(committed_units(dir(), "filter"), 3);
  record("filter", 10);
  EXPECT_EQ(committed_units(dir(), "filter"), 4);
}

TEST_F(Watch, CountsIterationsOfTheNewestCheckpoint) {
  EXPECT_EQ(committed_units(dir(), "train.a.b"), 0);
  touch("train/a.b/checkpoints/iter-00000100/state.json");
  touch("train/a.b/checkpoints/iter-00000250/state.json");
  touch("train/a.b/checkpoints/iter-00000300.9-1.part/state.json");
  EXPECT_EQ(committed_units(dir(), "train.a.b"), 250);
}

TEST_F(Watch, CountsPartsOfAnEvaluation) {
  touch("evaluate/a/parts/part-00000000.h5");
  touch("evaluate/a/parts/part-00000040.h5");
  EXPECT_EQ(committed_units(dir(), "evaluate.a"), 2);
  EXPECT_EQ(committed_units(dir(), "evaluate.b"), 0);
}

TEST_F(Watch, HeartbeatIsReadBack) {
  Heartbeat beat(dir(), "filter", 8, "n1");
  beat(view_of("filter.scores", 30, 40));
  const auto all = read_progress(dir());
  ASSERT_EQ(all.size(), 1U);
  const StageProgress& progress = all.at("filter");
  EXPECT_EQ(progress.view.stage, "filter.scores");
  EXPECT_EQ(progress.view.done, 30);
  EXPECT_EQ(progress.view.total, 40);
  EXPECT_EQ(progress.ranks, 8);
  EXPECT_EQ(progress.host, "n1");
  EXPECT_GT(progress.time, 1e9);
}

TEST_F(Watch, TheReasonOfAStopIsForgottenAtTheNextStart) {
  EXPECT_EQ(read_stop(dir(), "generate"), "");
  const Heartbeat first(dir(), "generate", 1, "n1");
  first.note_stop("the time limit");
  EXPECT_EQ(read_stop(dir(), "generate"), "the time limit");
  const Heartbeat second(dir(), "generate", 1, "n1");
  EXPECT_EQ(read_stop(dir(), "generate"), "");
}

TEST_F(Watch, DamagedProgressCountsAsAbsent) {
  touch("progress/generate.json");
  touch("progress/annotate.json");
  write_file_atomic(root_ / "progress/annotate.json", "{\"stage\": \"annotate\"}");
  EXPECT_TRUE(read_progress(dir()).empty());
}

TEST_F(Watch, AFileSystemThatTakesNothingDoesNotEndAStage) {
  touch("progress");  // a file where the folder would be
  Heartbeat beat(dir(), "generate", 1, "n1");
  EXPECT_NO_THROW(beat(view_of("generate", 1, 2)));
  EXPECT_NO_THROW(beat.note_stop("SIGTERM"));
}

TEST_F(Watch, TheJournalOfStartsPassesOverWhatIsNoLineOfIts) {
  const StartsJournal journal(root_ / "stages/generate.starts", "abc");
  EXPECT_EQ(journal.seconds(), 0);
  journal.append(1.5);
  for (const char* line : {"{\"fingerprint\": 5, \"seconds\": 7}", "{\"fingerprint\": \"abc\", \"seconds\": \"7\"}",
                           "[1]", "{\"fingerprint\": \"other\", \"seconds\": 7}", "{\"fingerprint\": \"abc\"}", "",
                           "null", "{\"fingerprint\": \"abc\", \"seco"})
    append_line(root_ / "stages/generate.starts", line);
  journal.append(2);
  EXPECT_EQ(journal.seconds(), 3.5);
}

TEST_F(Watch, PrometheusTextIsWhatItsFormatSays) {
  record("generate", 48, {{"too \"dark\"", 3}});
  Heartbeat beat(dir(), "train.base\\line", 2, "n1");
  beat(view_of("train.base\\line", 5, 24));
  const std::string text = read_file(root_ / "metrics.prom");
  EXPECT_EQ(text, prometheus_text(dir()));
  for (const char* line :
       {"# HELP divergen_stage_complete 1 when the stage's record stands.\n# TYPE divergen_stage_complete gauge\n",
        "\ndivergen_stage_complete{stage=\"generate\"} 1\n",
        "\ndivergen_stage_complete{stage=\"train.base\\\\line\"} 0\n",
        "\ndivergen_stage_seconds{stage=\"generate\"} 12.5\n",
        "\ndivergen_stage_rejected{stage=\"generate\",reason=\"too \\\"dark\\\"\"} 3\n",
        "\ndivergen_progress_done{stage=\"train.base\\\\line\"} 5\n"})
    EXPECT_NE(("\n" + text).find(line), std::string::npos) << line << "in\n" << text;
  // Each family's head stands once, before its lines.
  std::size_t heads = 0;
  for (std::size_t at = text.find("# TYPE divergen_stage_complete"); at != std::string::npos;
       at = text.find("# TYPE divergen_stage_complete", at + 1))
    ++heads;
  EXPECT_EQ(heads, 1U);
  EXPECT_EQ(text.back(), '\n');
}

}  // namespace
}  // namespace divergen::stages
