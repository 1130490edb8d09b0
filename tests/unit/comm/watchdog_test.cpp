// Which rank is the lost one, from what can be read of all.

#include "comm/watchdog.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.hpp"

namespace divergen::comm {
namespace {

/// Ranks that are all in the same call of both lanes.
std::vector<RankSign> ranks_in_step(int count) {
  std::vector<RankSign> out(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    RankState state;
    state.rank = i;
    state.ranks = count;
    state.lanes[0] = {70, 70, Call::Sum, 96, 5.0};
    state.lanes[1] = {140, 139, Call::GradientSum, 1 << 20, 6.0};
    out[static_cast<std::size_t>(i)] = {state, Life::Runs, 0.1};
  }
  return out;
}

}  // namespace

TEST(FindLost, NamesNobodyWhenAllHaveCome) { EXPECT_TRUE(find_lost(ranks_in_step(4), 0, 120).empty()); }

TEST(FindLost, NamesStoppedAndVanishedProcesses) {
  auto ranks = ranks_in_step(4);
  ranks[1].life = Life::Stopped;
  ranks[3].life = Life::Gone;
  ranks[2].state->lanes[1].begun = 139;  // behind because of the others, perhaps

  const auto lost = find_lost(ranks, 0, 120);

  ASSERT_EQ(lost.size(), 2u);
  EXPECT_EQ(lost[0].rank, 1);
  EXPECT_NE(lost[0].why.find("stopped"), std::string::npos);
  EXPECT_EQ(lost[1].rank, 3);
  EXPECT_NE(lost[1].why.find("gone"), std::string::npos);
}

TEST(FindLost, NamesSilentRanksOfOtherNodes) {
  auto ranks = ranks_in_step(3);
  ranks[1].life.reset();
  ranks[1].silence = 50;  // records travel slowly: half of what was waited is not too much
  ranks[2].life.reset();
  ranks[2].silence = 118;

  const auto lost = find_lost(ranks, 0, 120);

  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].rank, 2);
}

TEST(FindLost, NamesRanksThatAreBehind) {
  auto ranks = ranks_in_step(3);
  ranks[2].state->lanes[0] = {69, 69, Call::Sum, 96, 4.0};

  const auto lost = find_lost(ranks, 0, 120);

  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].rank, 2);
  EXPECT_NE(lost[0].why.find("#70"), std::string::npos);
}

TEST(FindLost, NamesRanksThatHaveLeft) {
  auto ranks = ranks_in_step(3);
  ranks[1].state->leaving = Leaving::InOrder;
  ranks[2].state.reset();

  const auto lost = find_lost(ranks, 0, 120);

  ASSERT_EQ(lost.size(), 2u);
  EXPECT_EQ(lost[0].rank, 1);
  EXPECT_EQ(lost[1].rank, 2);
}

TEST(LastWords, AreOfRanksThatCouldNotSpeak) {
  const Path folder = std::filesystem::temp_directory_path() / cat("divergen-words-", ::getpid());
  make_folder(folder);
  EXPECT_EQ(last_words(folder, "train.x"), std::nullopt);
  RankRecord& record = rank_record();
  ASSERT_TRUE(record.attach(folder / "train.x.rank-1.heartbeat", 1, 2, "node7", "train.x"));
  record.set_step(12);
  record.detach();

  const auto words = last_words(folder, "train.x");

  ASSERT_TRUE(words);
  EXPECT_NE(words->find("1 of 2 ranks were ended from outside"), std::string::npos) << *words;
  EXPECT_NE(words->find("rank 1 on node7"), std::string::npos) << *words;
  EXPECT_EQ(last_words(folder, "train"), std::nullopt);  // another stage
  ASSERT_TRUE(record.attach(folder / "train.x.rank-0.heartbeat", 0, 2, "node7", "train.x"));
  record.leave(Leaving::EndedJob);
  record.detach();
  EXPECT_EQ(last_words(folder, "train.x"), std::nullopt);  // it has said itself why
  std::filesystem::remove_all(folder);
}

}  // namespace divergen::comm
