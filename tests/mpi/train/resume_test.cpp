// resume_bit_identity_train (reference/reliability.md §6): sixty steps with three interruptions at random steps, at
// least two of them within an epoch, end in the same bits as sixty steps without: weights, averages, optimizer, log.
// An interruption is a stop, which saves where it is, or a crash, after which steps since the last checkpoint are done
// again. The toy in many rounds, and the detector with its loader and augmentation.

#include "mpi/train/small_world.hpp"
#include "mpi/train/toy.hpp"
#include "stages/train/train.hpp"
#include "support/full.hpp"

namespace divergen::test {
namespace {

constexpr std::int64_t kSteps = 60;
const std::int64_t kDetectorSteps = times(20, 60);
constexpr std::size_t kInterruptions = 3;

struct Interruption {
  std::int64_t step;  // during which it comes, from 0, as counted by steps that are done for the first time
  bool is_crash;
};

/// Drawn anew until two of them lie within an epoch of `epoch` samples. The same on all ranks.
std::vector<Interruption> draw(std::uint64_t seed, std::int64_t steps_in_all, std::int64_t batch, std::int64_t epoch) {
  Rng rng(derive_seed(61, "interruptions", {seed}));
  while (true) {
    std::set<std::int64_t> steps;
    while (steps.size() < kInterruptions) steps.insert(rng.range(1, steps_in_all - 2));
    if (std::count_if(steps.begin(), steps.end(), [&](auto s) { return (s + 1) * batch % epoch != 0; }) < 2) continue;
    std::vector<Interruption> out;
    for (const std::int64_t step : steps) out.push_back({step, rng.chance(0.4)});
    return out;
  }
}

/// Asks to stop, on one rank, or crashes, on all, when this start has done the step.
std::function<bool()> interrupt(const Interruption& one, std::int64_t first_step, int rank_that_asks) {
  return [one, next = std::make_shared<std::int64_t>(first_step), rank_that_asks] {
    if ((*next)++ != one.step) return false;
    if (one.is_crash) throw Crash();
    return world().rank() == rank_that_asks;
  };
}

using ResumeBitIdentity = ToyTraining;

}  // namespace

TEST_F(ResumeBitIdentity, Toy) {
  const auto straight = options("straight", kSteps);
  ASSERT_EQ(run(straight), kSteps);

  int crashes = 0;
  for (int round = 0; round < times(6, 60); ++round) {
    const auto set = options(cat("interrupted-", round), kSteps);
    std::int64_t done = 0;
    for (const Interruption& one :
         draw(static_cast<std::uint64_t>(round), kSteps, set.settings.batch, ToyTask::kEpoch)) {
      ToyTask task(set.settings.batch);
      const std::int64_t stopped = run(set, task, interrupt(one, done, round % world().size()));
      crashes += one.is_crash;
      EXPECT_EQ(stopped, one.is_crash ? -1 : one.step + 1) << "round " << round;
      world().barrier();  // rank 0 may still be writing
      const auto newest = stages::newest_checkpoint(set.folder / "checkpoints");
      done = newest ? newest->iteration : 0;
      EXPECT_LE(done, one.step + 1);
      EXPECT_GE(done, one.step + 1 - set.settings.checkpoint_every);
    }
    ASSERT_EQ(run(set), kSteps);

    expect_same_training(set.folder, straight.folder, kSteps);
    EXPECT_EQ(timeless_log(set.folder).size(), 9u);
  }
  EXPECT_GT(crashes, 2);
}

TEST(ResumeBitIdentityOfTheDetector, WithLoaderAndAugmentation) {
  SmallWorld small;
  small.training.iterations = kDetectorSteps;
  small.training.checkpoint_every = 5;
  small.training.log_every = 7;
  const auto context_of = [&](const std::string& name) { return small.run(name); };
  const stages::RunContext straight = context_of("straight");
  run_train(straight, small.training);

  constexpr std::int64_t kImages = 9;  // of SmallWorld: an epoch where nothing is repeated
  for (int round = 0; round < times(1, 4); ++round) {
    stages::RunContext interrupted = context_of(cat("interrupted-", round));
    const Path folder = interrupted.dir.training("small");
    std::int64_t done = 0;
    for (const Interruption& one :
         draw(static_cast<std::uint64_t>(7 + round), kDetectorSteps, small.training.batch, kImages)) {
      interrupted.stop_requested = interrupt(one, done, world().size() - 1);
      try {
        run_train(interrupted, small.training);
        ADD_FAILURE() << "it was not interrupted";
      } catch (const Crash&) {
        EXPECT_TRUE(one.is_crash);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::Stopped) << error.what();
      }
      world().barrier();  // rank 0 may still be writing
      const auto newest = stages::newest_checkpoint(folder / "checkpoints");
      done = newest ? newest->iteration : 0;
      if (!one.is_crash) {
        EXPECT_EQ(done, one.step + 1);
      }
    }
    interrupted.stop_requested = [] { return false; };
    run_train(interrupted, small.training);

    expect_same_training(folder, straight.dir.training("small"), kDetectorSteps);
    for (const char* file : {"model.safetensors", "last.safetensors"})
      EXPECT_TRUE(read_file(straight.dir.training("small") / file) == read_file(folder / file)) << file;
  }
}

}  // namespace divergen::test

DIVERGEN_MPI_MAIN()
