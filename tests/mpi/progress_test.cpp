// The progress line: what it says, and that it adds up what all ranks did.

#include "comm/progress.hpp"

#include <chrono>
#include <thread>

#include "base/error.hpp"
#include "mpi/mpi_main.hpp"

namespace divergen::comm {
namespace {

using test::world;

TEST(ProgressLine, SaysHowFarAndHowLong) {
  ProgressView view;
  view.stage = "generate";
  view.done = 1200;
  view.total = 4000;
  view.rejected = 14;
  view.rate = 3.5;
  view.slowest_rank = 3;
  view.slowest_rate = 0.05;
  EXPECT_EQ(progress_line(view),
            "generate: 1,200 of 4,000 (30 %), 3.5/s, 14 rejected, slowest rank 3 (3.00/min), 13 min 20 s left");
  view.median_rate = 0.09;
  EXPECT_NE(progress_line(view).find("slowest rank 3 (3.00/min, 1.8 times slower than the median)"), std::string::npos);
  view.median_rate = 0.051;
  EXPECT_EQ(progress_line(view).find("median"), std::string::npos) << "about as fast as the others";
  view.walltime_left = 600;
  EXPECT_NE(progress_line(view).find("TOO LONG for the walltime: 10 min 0 s"), std::string::npos);
  view.walltime_left = 6000;
  EXPECT_NE(progress_line(view).find(", walltime 1 h 40 min"), std::string::npos);
  view.done = 4000;
  view.finished = true;
  view.seconds = 65;
  view.slowest_rank = -1;
  view.rejected = 0;
  EXPECT_EQ(progress_line(view), "generate: 4,000 of 4,000 in 1 min 5 s, 3.5/s");
  EXPECT_EQ(progress_line({.stage = "filter", .done = 5}), "filter: 5, 0.0/s");  // total unknown, nothing known yet
}

// Runs a stage of 20 items a rank, 5 of them rejected on rank 0, and returns what rank 0 wrote.
std::vector<std::string> lines_of(ProgressOptions options, std::chrono::milliseconds each) {
  std::vector<std::string> lines;
  options.sink = [&](std::string_view text) { lines.emplace_back(text); };
  Progress progress(world(), "test", 20 * world().size() + 100, 100, options);
  for (int i = 0; i < 20; ++i) {
    progress.add(1, world().is_root() && i < 5 ? 1 : 0);
    std::this_thread::sleep_for(each);
  }
  progress.finish();
  return lines;
}

TEST(Progress, AddsUpAllRanks) {
  ProgressOptions options;
  options.terminal = false;
  options.plain_interval = 0.3;
  const auto lines = lines_of(options, std::chrono::milliseconds(50));
  if (!world().is_root()) {
    EXPECT_TRUE(lines.empty());
    return;
  }
  const std::string all = cat(100 + 20 * world().size());
  ASSERT_GE(lines.size(), 2u);
  EXPECT_LE(lines.size(), 8u);  // about one second at one line every 0.3 s
  EXPECT_EQ(lines.front().find('\r'), std::string::npos);
  EXPECT_NE(lines.front().find(cat(" of ", all, " (")), std::string::npos) << lines.front();
  EXPECT_EQ(lines.back().find(cat("test: ", all, " of ", all, " in ")), 0u) << lines.back();
  EXPECT_NE(lines.back().find("5 rejected"), std::string::npos) << lines.back();
  EXPECT_EQ(lines.back().find("slowest rank") != std::string::npos, world().size() > 1) << lines.back();
}

TEST(Progress, RewritesOneLineOnATerminal) {
  ProgressOptions options;
  options.terminal = true;
  options.terminal_interval = 0.15;
  const auto lines = lines_of(options, std::chrono::milliseconds(25));
  if (!world().is_root()) return;
  ASSERT_GE(lines.size(), 2u);
  for (const std::string& line : lines) {
    EXPECT_EQ(line.front(), '\r');
    EXPECT_EQ(line.back() == '\n', &line == &lines.back());
  }
}

TEST(Progress, IsQuietInBetween) {
  ProgressOptions options;
  options.terminal = false;  // one line every ten seconds: only the closing one
  const auto lines = lines_of(options, std::chrono::milliseconds(1));
  EXPECT_EQ(lines.size(), world().is_root() ? 1u : 0u);
}

TEST(Progress, CountingIsCheap) {
  Progress progress(world(), "test", 0, 0, {.terminal = false, .sink = [](std::string_view) {}});
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 1'000'000; ++i) progress.add(1);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 2.0) << "for a million calls";
  progress.finish();
}

TEST(Progress, StopsWithoutFinish) {
  try {
    Progress progress(world(), "test", 10, 0, {.terminal = false, .sink = [](std::string_view) {}});
    progress.add(1);
    throw std::runtime_error("an error on all ranks");
  } catch (const std::runtime_error&) {
  }
  world().barrier();
}

}  // namespace
}  // namespace divergen::comm

DIVERGEN_MPI_MAIN()
