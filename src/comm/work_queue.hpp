#pragma once
// Dynamic sharing of work: ranks claim the next indices of a list, so that a slow rank or item holds nobody up. The
// rules are in claims.hpp; this is their transport.
//
// The ranks of a node draw from a block in memory that they share, which takes microseconds and no message. Where there
// are several nodes, an agent, a thread of the first rank of each, asks the steward for the next block before the last
// one is used up. The steward is the agent of rank 0, which is always inside MPI (one-sided atomics on a computing rank
// were measured to stall until that rank next calls MPI; design §3.3): requests come one a node and block, not one a
// rank and claim.
//
//   comm::WorkQueue queue(world, count, {.largest_claim = 8});
//   world.together([&] {
//     while (const auto claim = queue.claim()) { ... claim.first .. claim.first + claim.count - 1 ...
//       if (must_stop) { queue.close(); break; } }
//   });
//   queue.finish();

#include <cstdint>
#include <memory>

#include "comm/claims.hpp"
#include "comm/world.hpp"

namespace divergen::comm {

struct QueueOptions {
  std::int64_t largest_claim = 1;  // positions of one claim at most
  /// Claims may come back (give_back, or a rank that leaves early): at the end, claim() waits while others still hold
  /// some. Turn it off where a rank claims the next before it is through with the last.
  bool may_return = true;
  /// As if a node had so many ranks; 0: what MPI says. For tests; the variable DIVERGEN_RANKS_PER_NODE does the same.
  int ranks_per_node = 0;
};

class WorkQueue {
 public:
  /// Collective. `items` (the same on all ranks) is the number of things to claim: positions 0 .. items-1 of a list
  /// that every rank holds. Throws Error(Io | NoSpace | Comm) when ranks cannot share memory.
  WorkQueue(World& world, std::int64_t items, QueueOptions options = QueueOptions());
  /// Ends this rank's agent. finish() must have been called, unless an exception is on its way; the object must outlive
  /// the last claim() of every rank, so keep it outside of World::together().
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  using Claim = comm::Claim;
  /// The next claim, and the end of the one before; count 0: nothing is left. Not collective; from any one thread of
  /// each rank at a time. Takes microseconds, or a few milliseconds when the node's block has run out. Throws
  /// Error(Comm) when a rank of the node died while it claimed.
  Claim claim();
  /// This rank does not do `claim`, or the part that is given: others will, or this one later. Each position comes back
  /// through claim() of some rank, once, as long as ranks go on claiming. From the thread that claims.
  void give_back(const Claim& claim);
  /// Gives out nothing more, to any rank: all finish what they have and come to the end. For a stop signal or an error
  /// of one rank. Not collective; from the thread that claims.
  void close();
  /// Collective: returns when all ranks have called it, after claim() gave them nothing or when they no longer want
  /// any. Call once.
  void finish();

 private:
  struct Node;   // in the memory of a node
  struct Agent;  // the thread
  void run_agent();

  World& world_;
  std::unique_ptr<Agent> agent_;
  Node* node_ = nullptr;
  NodeQueue::Rank rank_;
  bool finished_ = false;
};

}  // namespace divergen::comm
