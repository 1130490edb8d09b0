#pragma once
// A sharded stage (generate, annotate ...) on ranks that are not there: the planner's cut into shards and the queue's
// code (comm/claims.hpp, the same objects as in a real run) against virtual time. Ranks are sources of events; launch,
// model load, the metadata server and the file system are models with stated or measured figures.
//
//   SimulationInput input;
//   input.ranks = 10'000;
//   input.items = 10'000 * 1'280;
//   input.times = ItemTimes::of_run(RunDirectory("runs/mini"), "generate");
//   const SimulationResult result = simulate(input);
//
// Checked against real runs with synthetic items on 1 to 16 ranks: tests/mpi/simulate_test.cpp,
// tests/bench/simulate.cpp. What comes out is a simulation and is to be labelled so wherever it is shown (kSimulated).

#include <cstdint>
#include <string>
#include <vector>

#include "stages/scaling/item_times.hpp"

namespace divergen::stages {

inline constexpr const char* kSimulated = "simulated";

/// The file system that all ranks share. Defaults: a mid-size Lustre; state what yours does (mdtest, ior).
struct FileSystemModel {
  double metadata_rate = 20'000;    // operations a second of the one metadata server
  double metadata_latency = 0.001;  // seconds of one operation on an idle server
  double bandwidth = 100e9;         // bytes a second, all nodes together
  double node_bandwidth = 5e9;      // bytes a second of one node
};

/// From the launch to the first claim.
struct StartModel {
  double launch = 5;               // seconds of srun or mpirun and MPI_Init on one node
  double launch_per_doubling = 1;  // more for each doubling of the nodes
  // Of the metadata server: programs and libraries, cached by the node (an image or a broadcast copy: slurm/README.md);
  // plan, weights and logs, opened by each rank.
  double metadata_per_node = 50, metadata_per_rank = 10;
  double weight_bytes = 0;  // read by each node from the shared file system, by all nodes at once
  double load_seconds = 0;  // of each rank: what a load takes with the bytes in memory
};

/// One commit of a shard by store::write_table. measure_commit() fills in the times of the real code.
struct CommitModel {
  double seconds = 0.005;          // of the rank: making, checking and closing the file
  double seconds_per_byte = 2e-9;  // the same, that grows with the bytes
  double metadata_operations =
      17;  // opens, flushes, renames; counted in the real code (tests/unit/stages/simulate_test.cpp)
  double bytes_per_item = 500e3;  // a 512 px picture as PNG
};

/// What the queue's messages cost; the pauses are those of comm/work_queue.cpp.
struct QueueModel {
  double draw = 2e-6;              // seconds of a rank that finds work on its node
  double message = 5e-6;           // one way between nodes
  double agent_pause = 0.0005;     // until a node's agent looks at its memory
  double answer_pause = 0.0002;    // until it sees an answer, and until a waiting rank sees the block
  double steward_pause = 0.002;    // until the steward looks for messages again when it had none
  double steward_service = 10e-6;  // of the steward, one message
};

struct SimulationInput {
  std::int64_t ranks = 1;
  std::int64_t ranks_per_node = 8;
  std::int64_t items = 0;
  std::int64_t shard_items = 64;  // as [plan] shard_items
  /// Items of each generator in the plan, adding up to `items`; empty: one generator. A shard never spans two.
  std::vector<std::int64_t> items_of_generator;
  std::int64_t shards_done = 0;    // made by earlier starts: the first ones of the plan
  std::int64_t largest_claim = 1;  // shards of a rank's claim at most
  ItemTimes times = ItemTimes::constant(1);
  double rank_spread = 0;  // standard deviation of the ranks' speeds, as a share of it (log-normal)
  std::uint64_t seed = 1;
  FileSystemModel file_system;
  StartModel start;
  CommitModel commit;
  QueueModel queue;
};

/// Shares of ranks x makespan; they add up to 1.
struct PhaseShares {
  double start_up = 0;  // launch and MPI
  double load = 0;      // weights
  double steady = 0;    // items
  double commit = 0;    // writing and checking shards, of the rank
  double io_wait = 0;   // for the metadata server and the file system
  double queue = 0;     // for claims
  double tail = 0;      // idle at the end, waiting for the others
};

struct SimulationResult {
  std::int64_t ranks = 0, nodes = 0, items = 0, shards = 0;
  double makespan = 0;      // seconds from the launch to the end of the last rank
  double item_seconds = 0;  // of all items: what they would take on one rank, without anything else
  PhaseShares shares;
  double efficiency = 0;             // item_seconds / (ranks x makespan), start-up and load included
  double items_per_second = 0;       // items / makespan
  double first_item = 0;             // when the first rank started to work
  double last_claim = 0;             // when the last work was handed out
  double ready_spread = 0;           // between the first and the last rank's readiness
  double busy_until_last_claim = 0;  // 1 if no rank waits for a claim before last_claim; share of the time between
                                     // readiness and last_claim in which a rank had work
  double tail_seconds = 0;           // in which the last 5 % of the shards were finished
  std::int64_t claims = 0;           // of ranks
  std::int64_t blocks = 0;           // that nodes asked the steward for
  std::int64_t messages = 0;         // between nodes
  double steward_busy = 0;           // share of the time from first_item to last_claim
  double steward_longest_wait = 0;   // seconds of a request in its queue
  double metadata_busy = 0, metadata_longest_wait = 0;
  std::string basis;  // what was assumed, for the page: times, launch, load, file system
};

/// Pure and deterministic; 100,000 ranks with 2 million shards take some seconds and well under 1 GB. Throws
/// Error(Usage) for impossible input (no ranks, no items, negative times).
SimulationResult simulate(const SimulationInput& input);

/// The same work for each rank (items = items_per_rank x ranks) on 1 and on `input.ranks` ranks. One rank makes few
/// shards, whose times are a matter of luck: its time is the mean over many seeds, so that luck is no efficiency.
struct WeakScaling {
  double one_seconds = 0;  // T_1
  SimulationResult one;    // of one of the seeds
  SimulationResult all;
  double efficiency = 0;  // T_1 / T_p (reference/reliability.md §7)
};
WeakScaling simulate_weak(SimulationInput input, std::int64_t items_per_rank);

/// Seconds of a shard's items on a rank of average speed: what a run with synthetic items has to take to be compared.
double shard_seconds(const SimulationInput& input, std::size_t shard, std::int64_t items);

/// Times the real store::write_table with shards of `items` rows and `bytes_per_item` bytes each in `folder`, and with
/// next to no bytes, five times each, and keeps the medians. The file system's share is in them: measure in memory to
/// leave that to FileSystemModel. Throws Error(Io | NoSpace).
CommitModel measure_commit(const Path& folder, std::int64_t items, double bytes_per_item);

}  // namespace divergen::stages
