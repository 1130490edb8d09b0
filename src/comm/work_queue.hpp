#pragma once
// Dynamic sharing of work: ranks claim the next indices of a list, so that a slow rank or item holds nobody up.
//
// The counter lives in a service thread of rank 0 that is always inside MPI (one-sided atomics on a computing rank were
// measured to stall until that rank next calls MPI; design §3.3). Claims shrink towards the end.

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
  /// Joins rank 0's thread. finish() must have been called, unless an exception is on its way.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  struct Claim {
    std::int64_t first = 0, count = 0;  // count 0: nothing is left
  };
  /// Not collective; from any one thread of each rank.
  Claim claim();
  /// Collective: returns when all ranks have seen the end. Call once, after claim() gave nothing.
  void finish();

 private:
  struct Service;
  World& world_;
  std::int64_t items_, largest_claim_;
  std::unique_ptr<Service> service_;
  void* channel_ = nullptr;  // an own MPI communicator
};

}  // namespace divergen::comm
