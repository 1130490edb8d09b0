#pragma once
// Dynamic sharing of work: ranks claim the next indices of a list, so that a slow rank or item holds nobody up.
//
// The counter lives in a service thread of rank 0 that is always inside MPI (one-sided atomics on a computing rank were
// measured to stall until that rank next calls MPI; design §3.3). Claims shrink towards the end: each gives a rank at
// most half of its even share of what is left (guided self-scheduling).
//
//   comm::WorkQueue queue(world, count, 8);
//   world.together([&] {
//     while (const auto claim = queue.claim()) { ... claim.first .. claim.first + claim.count - 1 ...
//       if (must_stop) { queue.close(); break; } }
//   });
//   queue.finish();

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/world.hpp"

namespace divergen::comm {

class WorkQueue {
 public:
  /// Collective. `items` (the same on all ranks) is the number of things to claim: positions 0 .. items-1 of a list
  /// that every rank holds. `largest_claim` bounds how many one claim gives.
  WorkQueue(World& world, std::int64_t items, std::int64_t largest_claim = 1);
  /// Joins rank 0's thread. finish() must have been called, unless an exception is on its way; the object must outlive
  /// the last claim() of every rank, so keep it outside of World::together().
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  struct Claim {
    std::int64_t first = 0, count = 0;  // count 0: nothing is left
    explicit operator bool() const { return count > 0; }
  };
  /// Not collective; from any one thread of each rank at a time. Takes about two milliseconds (on rank 0 none). Throws
  /// Error(Comm).
  Claim claim();
  /// Gives out nothing more, to any rank: all finish what they have and come to the end. For a stop signal or an error
  /// of one rank. Not collective; from the thread that claims.
  void close();
  /// Collective: returns when all ranks have called it, after claim() gave them nothing or when they no longer want
  /// any. Call once.
  void finish();

 private:
  struct Service;
  World& world_;
  std::int64_t items_, largest_claim_;
  std::unique_ptr<Service> service_;
  bool finished_ = false;
  void* channel_ = nullptr;  // an own MPI communicator; none on a single rank
};

}  // namespace divergen::comm
