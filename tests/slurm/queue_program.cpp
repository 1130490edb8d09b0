// The work queue on many ranks with synthetic items: every item once, on whatever rank. For more ranks than any test
// machine has processors; started through srun by scale_test.py.
//
//   queue_program ITEMS MICROSECONDS_OF_AN_ITEM
//
// Rank 0 prints one line of JSON and ends with 1 when an item was lost or done twice.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "comm/progress.hpp"
#include "comm/work_queue.hpp"
#include "comm/world.hpp"

namespace {

using namespace divergen;

/// Between none and twice the mean, by item: as uneven as items are.
std::chrono::microseconds duration_of(std::int64_t item, std::int64_t mean) {
  const auto draw = static_cast<std::int64_t>(static_cast<std::uint64_t>(item) * 2654435761U % 1000);
  return std::chrono::microseconds(mean * draw / 500);
}

int run(comm::World& world, std::int64_t items, std::int64_t mean) {
  std::vector<std::int64_t> done(static_cast<std::size_t>(items), 0);
  std::vector<std::int64_t> share(static_cast<std::size_t>(world.size()), 0);
  comm::WorkQueue queue(world, items, {.largest_claim = 8});
  comm::Progress progress(world, "synthetic", items, 0);
  while (const auto claim = queue.claim())
    for (std::int64_t i = claim.first; i < claim.first + claim.count; ++i) {
      std::this_thread::sleep_for(duration_of(i, mean));
      ++done[static_cast<std::size_t>(i)];
      ++share[static_cast<std::size_t>(world.rank())];
      progress.add(1);
    }
  queue.finish();
  progress.finish();
  world.sum(std::span<std::int64_t>(done));
  world.sum(std::span<std::int64_t>(share));
  std::int64_t lost = 0, twice = 0, working = 0;
  for (const std::int64_t count : done) {
    lost += count == 0;
    twice += count > 1;
  }
  for (const std::int64_t count : share) working += count > 0;
  if (world.is_root())
    std::printf("{\"ranks\": %d, \"items\": %lld, \"lost\": %lld, \"twice\": %lld, \"working_ranks\": %lld}\n",
                world.size(), static_cast<long long>(items), static_cast<long long>(lost),
                static_cast<long long>(twice), static_cast<long long>(working));
  return lost + twice > 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  comm::World world(&argc, &argv);
  if (argc != 3) return exit_code(ErrorKind::Usage);
  return run(world, std::atoll(argv[1]), std::atoll(argv[2]));
}
