// Collectives of World, agreement on failures, and the singleton start.

#include "comm/world.hpp"

#include <chrono>
#include <cmath>
#include <ctime>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "mpi/mpi_main.hpp"

namespace divergen::comm {
namespace {

using test::world;

std::vector<float> numbers_of(int rank, std::size_t count) {
  Rng rng(derive_seed(7, "numbers", {static_cast<std::uint64_t>(rank)}));
  std::vector<float> out(count);
  for (float& x : out) x = static_cast<float>(rng.normal() * std::exp(4 * rng.normal()));  // rounding matters
  return out;
}

TEST(World, KnowsItsRanks) {
  EXPECT_GE(world().rank(), 0);
  EXPECT_LT(world().rank(), world().size());
  EXPECT_EQ(world().local_size(), world().size());  // tests run on one node
  EXPECT_EQ(world().local_rank(), world().rank());
  EXPECT_FALSE(world().host().empty());
  EXPECT_EQ(world().is_root(), world().rank() == 0);
}

TEST(World, SumsInTheOrderOfRanksToTheLastBit) {
  // Below and above the switch from one exchange to two, and not divisible by the ranks.
  for (const std::size_t count : {std::size_t{1}, std::size_t{512}, std::size_t{513}, std::size_t{100'003}}) {
    std::vector<float> values = numbers_of(world().rank(), count), expected = numbers_of(0, count);
    for (int r = 1; r < world().size(); ++r) {
      const std::vector<float> other = numbers_of(r, count);
      for (std::size_t i = 0; i < count; ++i) expected[i] += other[i];
    }
    world().sum(values);
    EXPECT_EQ(values, expected) << count << " numbers";
  }
}

TEST(World, SumsDoublesAndIntegers) {
  std::vector<double> doubles(1000, 0.5 + world().rank());
  world().sum(doubles);
  const int n = world().size();
  EXPECT_EQ(doubles, std::vector<double>(1000, 0.5 * n + n * (n - 1) / 2));
  std::vector<std::int64_t> integers{std::int64_t{1} << 60, world().rank()};
  world().sum(integers);
  EXPECT_EQ(integers, (std::vector<std::int64_t>{n * (std::int64_t{1} << 60), n * (n - 1) / 2}));
  std::vector<double> none;
  world().sum(none);
}

TEST(World, SumsMoreThanOnePiece) {
  std::vector<float> values((std::size_t{64} << 18) + 5);  // 64 MiB and a bit
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i + world().rank()) % 1024);
  world().sum(values);
  for (std::size_t i = 0; i < values.size(); i += 4099) {
    float expected = 0;
    for (int r = 0; r < world().size(); ++r) expected += static_cast<float>((i + r) % 1024);
    ASSERT_EQ(values[i], expected) << i;
  }
}

TEST(World, BroadcastsAndGathersTexts) {
  const int last = world().size() - 1;
  const std::string long_text(300'000, 'x');
  EXPECT_EQ(world().broadcast_text(world().rank() == last ? long_text : "other", last), long_text);
  EXPECT_EQ(world().broadcast_text(world().is_root() ? "" : "other"), "");
  std::array<std::byte, 3> bytes{};
  if (world().is_root()) bytes = {std::byte{1}, std::byte{2}, std::byte{3}};
  world().broadcast(bytes);
  EXPECT_EQ(bytes[2], std::byte{3});

  const auto text_of = [](int rank) { return std::string(static_cast<std::size_t>(rank) * 100'000, 'a' + rank); };
  const std::vector<std::string> texts = world().gather_texts(text_of(world().rank()));
  if (!world().is_root()) {
    EXPECT_TRUE(texts.empty());
    return;
  }
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(world().size()));
  for (int r = 0; r < world().size(); ++r) EXPECT_EQ(texts[static_cast<std::size_t>(r)], text_of(r));
}

TEST(World, MaximumAndAny) {
  EXPECT_EQ(world().max(-10 - world().rank()), -10);
  EXPECT_FALSE(world().any(false));
  EXPECT_TRUE(world().any(world().rank() == world().size() - 1));
}

TEST(World, BarrierWaitsAsleep) {
  // CLOCK_THREAD_CPUTIME_ID: what this thread computed while it waited for the last rank.
  const auto cpu_seconds = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  world().barrier();
  const int late = world().size() - 1;
  if (world().rank() == late) std::this_thread::sleep_for(std::chrono::seconds(1));
  const double before = cpu_seconds();
  world().barrier();
  if (world().rank() != late) {
    EXPECT_LT(cpu_seconds() - before, 0.2) << "the barrier computes while it waits";
  }
}

TEST(World, TogetherAgreesOnAnError) {
  world().together([] {});
  const int failing = world().size() - 1;
  const auto action = [&] {
    if (world().rank() == failing) fail(ErrorKind::Data, {"the file is damaged", "x.png", "it is empty", "remove it"});
  };
  try {
    world().together(action);
    FAIL() << "nothing was thrown on rank " << world().rank();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Data);  // one exit code for all ranks
    const std::string message = error.what();
    EXPECT_NE(message.find("the file is damaged: x.png"), std::string::npos) << message;
    const bool names_rank = message.find(cat("rank ", failing)) != std::string::npos;
    EXPECT_EQ(names_rank, world().rank() != failing) << message;
  }
  world().barrier();  // all came out
}

TEST(World, TogetherPassesForeignExceptionsOn) {
  try {
    world().together([] {
      if (world().is_root()) throw std::out_of_range("position 7");
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_FALSE(world().is_root());
    EXPECT_EQ(error.kind(), ErrorKind::Comm);
    EXPECT_NE(std::string(error.what()).find("position 7"), std::string::npos);
  } catch (const std::out_of_range&) {
    EXPECT_TRUE(world().is_root());
  }
  // Several ranks fail: each has its own error.
  try {
    world().together([] { fail(ErrorKind::Io, {"cannot write", cat(world().rank()), "", ""}); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.text().object, cat(world().rank()));
  }
}

}  // namespace
}  // namespace divergen::comm

DIVERGEN_MPI_MAIN()
