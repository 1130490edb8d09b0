// Every index goes out exactly once, whatever the ranks do; claims are fast and shrink.

#include "comm/work_queue.hpp"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <thread>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "mpi/mpi_main.hpp"

namespace divergen::comm {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using test::world;

// How often each index was given, over all ranks.
std::vector<std::int64_t> counts_over_ranks(std::int64_t items, const std::vector<WorkQueue::Claim>& mine) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(items), 0);
  for (const auto& claim : mine)
    for (std::int64_t i = claim.first; i < claim.first + claim.count; ++i) ++counts.at(static_cast<std::size_t>(i));
  world().sum(counts);
  return counts;
}

/// Each case with the ranks as one node, and as if there were several: of one rank each, of two.
class Queue : public testing::TestWithParam<int> {
 protected:
  static QueueOptions options(std::int64_t largest = 1) {
    return {.largest_claim = largest, .ranks_per_node = GetParam()};
  }
};
INSTANTIATE_TEST_SUITE_P(Nodes, Queue, testing::Values(0, 1, 2), [](const auto& info) {
  return info.param == 0 ? std::string("All") : "Of" + std::to_string(info.param);
});

TEST_P(Queue, GivesEveryIndexOnceWithUnevenRanks) {
  Rng rng(derive_seed(3, "sleep", {static_cast<std::uint64_t>(world().rank())}));
  for (const bool may_return : {true, false})
    for (const std::int64_t items : {0, 1, 3, 100}) {
      QueueOptions with = options(8);
      with.may_return = may_return;
      WorkQueue queue(world(), items, with);
      std::vector<WorkQueue::Claim> mine;
      while (const auto claim = queue.claim()) {
        mine.push_back(claim);
        std::this_thread::sleep_for(microseconds(claim.count * (100 + 300 * world().rank()) + rng.below(500)));
      }
      EXPECT_EQ(queue.claim().count, 0);  // the end stays the end
      queue.finish();
      EXPECT_EQ(counts_over_ranks(items, mine), std::vector<std::int64_t>(static_cast<std::size_t>(items), 1));
    }
}

TEST_P(Queue, RanksMayStopEarly) {
  for (int stopping = 0; stopping < world().size(); ++stopping) {
    const std::int64_t items = 60;
    WorkQueue queue(world(), items, options(4));
    std::vector<WorkQueue::Claim> mine;
    const bool stops = world().size() > 1 && world().rank() == stopping;
    while (!(stops && mine.size() == 1)) {
      const auto claim = queue.claim();
      if (!claim) break;
      mine.push_back(claim);
      std::this_thread::sleep_for(milliseconds(1));
    }
    queue.finish();
    EXPECT_EQ(counts_over_ranks(items, mine), std::vector<std::int64_t>(items, 1)) << "rank " << stopping << " stopped";
  }
}

TEST_P(Queue, WhatIsGivenBackIsDoneByOthers) {
  // One rank gives back whatever it gets, a part or the whole, then leaves; last of all, when the others wait for it.
  for (const int failing : {0, world().size() - 1}) {
    const std::int64_t items = 50;
    WorkQueue queue(world(), items, options(3));
    std::vector<WorkQueue::Claim> mine;
    const bool fails = world().size() > 1 && world().rank() == failing;
    int failures = 0;
    while (const auto claim = queue.claim()) {
      if (!fails) {
        mine.push_back(claim);
        std::this_thread::sleep_for(milliseconds(1));
        continue;
      }
      if (failures == 3) std::this_thread::sleep_for(milliseconds(200));
      const std::int64_t done = failures == 0 ? claim.count - 1 : 0;
      if (done > 0) mine.push_back({claim.first, done});
      queue.give_back({claim.first + done, claim.count - done});
      if (++failures == 4) break;
    }
    queue.finish();
    EXPECT_EQ(counts_over_ranks(items, mine), std::vector<std::int64_t>(items, 1)) << "rank " << failing;
  }
}

TEST_P(Queue, TheLastClaimOfAllMayComeBack) {
  if (world().size() == 1) GTEST_SKIP() << "needs others";
  WorkQueue queue(world(), world().size(), options());
  std::vector<WorkQueue::Claim> mine;
  const bool fails = world().rank() == 0;
  while (const auto claim = queue.claim()) {
    if (!fails) {
      mine.push_back(claim);
      continue;
    }
    std::this_thread::sleep_for(milliseconds(100));  // by now the others have asked for more
    queue.give_back(claim);
    break;
  }
  queue.finish();
  EXPECT_EQ(counts_over_ranks(world().size(), mine),
            std::vector<std::int64_t>(static_cast<std::size_t>(world().size()), 1));
}

TEST_P(Queue, CloseEndsItForAllRanks) {
  const std::int64_t items = 1'000'000;
  WorkQueue queue(world(), items, options());
  std::vector<WorkQueue::Claim> mine;
  while (const auto claim = queue.claim()) {
    mine.push_back(claim);
    if (world().rank() == world().size() - 1 && mine.size() == 5) queue.close();
    std::this_thread::sleep_for(milliseconds(1));
  }
  queue.finish();
  const std::vector<std::int64_t> counts = counts_over_ranks(items, mine);
  EXPECT_EQ(*std::max_element(counts.begin(), counts.end()), 1);
  EXPECT_GE(std::count(counts.begin(), counts.end(), 1), 5);
  EXPECT_LT(std::count(counts.begin(), counts.end(), 1), 10'000);  // nobody went on to the end
}

TEST_P(Queue, ClaimsShrink) {
  WorkQueue queue(world(), 1000, options(50));
  std::vector<WorkQueue::Claim> mine;
  while (const auto claim = queue.claim()) mine.push_back(claim);
  queue.finish();
  for (const auto& claim : mine) {
    const std::int64_t fair = guided_claim(1000 - claim.first, world().size(), 50);
    EXPECT_LE(claim.count, fair) << "at " << claim.first;
    EXPECT_GE(claim.count, GetParam() == 0 ? fair : 1) << "at " << claim.first;
  }
  counts_over_ranks(1000, mine);
}

TEST_P(Queue, ClaimsAreQuickAndWaitingIsCheap) {
  WorkQueue queue(world(), 1'000'000, options());
  // On a busy machine every sleep is longer than asked for, also those of the agents.
  std::vector<double> seconds, naps;
  const auto timed = [](const auto& action) {
    const auto start = std::chrono::steady_clock::now();
    action();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  for (int i = 0; i < 21; ++i) {
    seconds.push_back(timed([&] { queue.claim(); }));
    for (int k = 0; k < 10; ++k) naps.push_back(timed([] { std::this_thread::sleep_for(milliseconds(2)); }));
  }
  std::sort(seconds.begin(), seconds.end());
  std::sort(naps.begin(), naps.end());
  RecordProperty("median_claim_us", static_cast<int>(1e6 * seconds[10]));
  EXPECT_LT(seconds[10], 2 * naps[105]) << "median of a claim";
  world().barrier();
  // A process for half a second with nothing to do but serve: its agent and this sleep.
  timespec before, after;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  std::this_thread::sleep_for(milliseconds(500));
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  const double used =
      static_cast<double>(after.tv_sec - before.tv_sec) + 1e-9 * static_cast<double>(after.tv_nsec - before.tv_nsec);
  EXPECT_LT(used, 0.05) << "seconds of computing in half a second of waiting";
  queue.close();
  queue.finish();
}

TEST_P(Queue, AFailingRankIsHeardByAll) {
  WorkQueue queue(world(), 200, options(2));
  const int failing = world().size() - 1;
  EXPECT_THROW(world().together([&] {
    int claims = 0;
    while (queue.claim())
      if (world().rank() == failing && ++claims == 2) {
        queue.close();
        fail(ErrorKind::Io, {"disk full", "", "", ""});
      }
    if (world().rank() == failing) fail(ErrorKind::Io, {"disk full", "", "", ""});
  }),
               Error);
  queue.finish();
}

}  // namespace
}  // namespace divergen::comm

DIVERGEN_MPI_MAIN()
