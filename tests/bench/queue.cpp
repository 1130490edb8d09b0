// Uneven work and the simulator's predictions at full figures; started under mpiexec by work_queue.py. Rank 0 prints a line
// of JSON each.
//
//   bench_queue uneven          items of 100 ms on average, spread 1:50
//   bench_queue predict         makespan of a real run against the simulated one
//   bench_queue scale FILE      (one rank) weak scaling in simulation with the item times of FILE

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>

#include "base/error.hpp"
#include "support/memory_folder.hpp"
#include "support/synthetic_stage.hpp"

namespace {

using namespace divergen;

/// One on all ranks, removed by the first.
class Folder {
 public:
  explicit Folder(comm::World& world) : world_(world) {
    if (world.is_root()) own_ = std::make_unique<test::MemoryFolder>();
    path_ = world.broadcast_text(own_ ? own_->path().string() : "");
  }
  ~Folder() { world_.barrier(); }
  const Path& path() const { return path_; }

 private:
  comm::World& world_;
  std::unique_ptr<test::MemoryFolder> own_;
  Path path_;
};

void uneven(comm::World& world) {
  const Folder folder(world);
  // Log-uniform from t to 50 t with mean 0.1 s: t = 0.1 ln 50 / 49.
  const double least = 0.1 * std::log(50.0) / 49;
  const auto input =
      test::synthetic_input(world, 10 * world.size(), 64, stages::ItemTimes::log_uniform(least, 50 * least), 20'000);
  const auto result = test::run_synthetic(world, input, folder.path());
  if (world.is_root())
    std::printf(
        "{\"name\": \"queue.uneven\", \"ranks\": %d, \"shards\": %d, \"shard_items\": 64, \"busy\": %.4f, "
        "\"overhead\": %.5f, \"makespan\": %.3f}\n",
        world.size(), 10 * world.size(), result.busy, result.overhead, result.makespan);
}

void predict(comm::World& world) {
  const Folder folder(world);
  const std::int64_t shards = std::max(120, 20 * world.size());
  auto input = test::synthetic_input(world, shards, 2, stages::ItemTimes::log_uniform(0.02, 1), 10'000);
  test::calibrate(world, input, folder.path());
  const double predicted = stages::simulate(input).makespan;
  // What the distribution alone says, with other draws than the run's.
  auto other = input;
  other.seed = 1000;
  const double without_draws = stages::simulate(other).makespan;
  const double real = test::run_synthetic(world, input, folder.path() / "run").makespan;
  if (world.is_root())
    std::printf(
        "{\"name\": \"queue.predict\", \"ranks\": %d, \"ours\": %.3f, \"peer\": %.3f, \"ratio\": %.4f, "
        "\"ratio_of_other_draws\": %.4f}\n",
        world.size(), predicted, real, predicted / real, without_draws / real);
}

void scale(const Path& file) {
  struct Case {
    std::int64_t ranks, items, shard_items;
  };
  const std::vector<Case> cases{{1'000, 1280, 64}, {10'000, 1280, 64}, {10'000, 1280, 16}, {10'000, 320, 64},
                                {10'000, 320, 16}, {10'000, 128, 16},  {100'000, 1280, 64}};
  for (const bool broadcast : {false, true})
    for (const auto& [ranks, items, shard_items] : cases) {
      stages::SimulationInput input;
      input.ranks = ranks;
      input.shard_items = shard_items;
      input.times = stages::ItemTimes::of_file(file).scaled_to(6);  // full-size models: reference/reliability.md §8
      // 10 GB of weights: each node reads them from the shared file system, or they are copied to the nodes as a tree
      // (sbcast), which takes as long as two nodes' links do.
      input.start.weight_bytes = broadcast ? 0 : 10e9;
      input.start.load_seconds = broadcast ? 24 : 20;
      const auto start = std::chrono::steady_clock::now();
      const stages::WeakScaling weak = stages::simulate_weak(input, items);
      const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      const auto& r = weak.all;
      std::printf(
          "{\"name\": \"queue.scale\", \"basis\": \"simulated\", \"ranks\": %lld, \"items_per_rank\": %lld, "
          "\"shard_items\": %lld, \"broadcast\": %s, "
          "\"weak_efficiency\": %.4f, \"makespan\": %.1f, \"start_up\": %.4f, \"load\": %.4f, \"steady\": %.4f, "
          "\"commit\": %.4f, \"io_wait\": %.4f, \"queue\": %.5f, \"tail\": %.4f, \"busy\": %.5f, "
          "\"messages\": %lld, \"steward_busy\": %.5f, \"metadata_busy\": %.5f, \"seconds_to_simulate\": %.1f}\n",
          static_cast<long long>(ranks), static_cast<long long>(items), static_cast<long long>(shard_items),
          broadcast ? "true" : "false", weak.efficiency, r.makespan, r.shares.start_up, r.shares.load, r.shares.steady,
          r.shares.commit, r.shares.io_wait, r.shares.queue, r.shares.tail, r.busy_until_last_claim,
          static_cast<long long>(r.messages), r.steward_busy, r.metadata_busy, took);
      std::fflush(stdout);
    }
}

}  // namespace

int main(int argc, char** argv) {
  comm::World world(&argc, &argv);
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "uneven") uneven(world);
  else if (what == "predict") predict(world);
  else if (what == "scale" && argc > 2) scale(argv[2]);
  else return exit_code(ErrorKind::Usage);
  return 0;
}
