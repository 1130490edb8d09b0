// Faults that a training must notice by itself (reference/reliability.md §6): nan_guard, replica_drift, and
// one_rank_signalled, on the toy in many places and on the detector in one of each kind.

#include <bit>

#include "base/fault.hpp"
#include "mpi/train/small_world.hpp"
#include "mpi/train/toy.hpp"
#include "nn/tensor_io.hpp"
#include "stages/train/train.hpp"
#include "support/full.hpp"

namespace divergen::test {
namespace {

constexpr std::int64_t kSteps = 30;

enum class Bad { Loss, Gradient, Activation };
constexpr Bad kKinds[] = {Bad::Loss, Bad::Gradient, Bad::Activation};
constexpr const char* kPoints[] = {"train.loss", "train.gradient", "train.activation"};

/// Makes a number of this kind bad on one rank in one step (from 0), the first time that it is done.
void spoil(ToyTask& task, Bad kind, std::int64_t step, int rank) {
  if (world().rank() != rank) return;
  if (kind == Bad::Activation) {
    task.bad_activation = [step](std::int64_t iteration, int times) { return iteration == step && times == 0; };
  } else {
    fault::arm(kPoints[static_cast<int>(kind)], fault::Action::Spoil, step + 1);
  }
}

/// What the message must say was not finite.
const char* word_for(Bad kind) { return kind == Bad::Gradient ? "the gradient of first" : "loss_fit"; }

class NanGuard : public ToyTraining {
 protected:
  void TearDown() override {
    fault::disarm();
    ToyTraining::TearDown();
  }
};
using ReplicaDrift = ToyTraining;
using OneRankSignalled = ToyTraining;

}  // namespace

TEST_F(NanGuard, StepsAreDoneAgainFromTheLastGoodState) {
  const auto clean = options("clean", kSteps);
  ASSERT_EQ(run(clean), kSteps);

  int round = 0;
  Rng rng(17);
  for (const Bad kind : kKinds)
    for (int rank = 0; rank < world().size(); ++rank)
      for (int n = 0; n < times(2, 12); ++n) {
        const auto set = options(cat("spoilt-", round++), kSteps);
        const std::int64_t step = n == 0 ? rng.range(0, 9) : rng.range(10, kSteps - 1);
        const std::string where = cat(word_for(kind), " at step ", step, " on rank ", rank);
        ToyTask task(set.settings.batch);
        spoil(task, kind, step, rank);
        std::vector<std::int64_t> steps;
        task.at_step = [&](std::int64_t iteration, int) { steps.push_back(iteration); };
        const Path log = listen();
        stages::TrainingEngine engine(task, world(), set);

        const auto result = engine.run([] { return false; });

        EXPECT_EQ(result.rollbacks, 1) << where;
        // On every rank: the bad step is the last one before the return to the last multiple of ten.
        std::vector<std::int64_t> expected;
        for (std::int64_t i = 0; i <= step; ++i) expected.push_back(i);
        for (std::int64_t i = step / 10 * 10; i < kSteps; ++i) expected.push_back(i);
        EXPECT_EQ(steps, expected) << where;
        expect_same_training(set.folder, clean.folder, kSteps);
        if (world().is_root()) {
          const std::string said = heard(log);
          EXPECT_NE(said.find(cat("step ", step, " gave a number that is not finite (rank ", rank, " on ",
                                  world().host(), ": ", word_for(kind))),
                    std::string::npos)
              << where << "\n"
              << said;
          EXPECT_NE(said.find(cat("step ", step, " gave finite numbers when it was repeated")), std::string::npos)
              << where << "\n"
              << said;
        }
      }
}

// Finite gradients may leave weights that are not, and the next step that would tell comes after the checkpoint.
TEST_F(NanGuard, BadWeightsAreNotSaved) {
  const auto clean = options("clean", kSteps);
  ASSERT_EQ(run(clean), kSteps);
  for (const std::int64_t step : {9, 19, 29}) {
    const auto set = options(cat("spoilt-", step), kSteps);
    ToyTask task(set.settings.batch);
    if (world().rank() == world().size() - 1) fault::arm("train.weights", fault::Action::Spoil, step + 1);
    stages::TrainingEngine engine(task, world(), set);

    const auto result = engine.run([] { return false; });

    fault::disarm();
    EXPECT_EQ(result.rollbacks, 1) << step;
    expect_same_training(set.folder, clean.folder, kSteps);
  }
}

TEST_F(NanGuard, PassingFaultsAreForgivenThreeTimes) {
  const auto clean = options("clean", kSteps);
  ASSERT_EQ(run(clean), kSteps);
  const auto set = options("three", kSteps);
  ToyTask task(set.settings.batch);
  task.bad_activation = [](std::int64_t iteration, int times) {
    return world().rank() == 0 && iteration == 12 && times < 3;
  };
  stages::TrainingEngine engine(task, world(), set);

  EXPECT_EQ(engine.run([] { return false; }).rollbacks, 3);

  expect_same_training(set.folder, clean.folder, kSteps);
}

TEST_F(NanGuard, ALastingFaultEndsInAnErrorThatNamesIt) {
  const int rank = world().size() - 1;
  for (const Bad kind : {Bad::Activation, Bad::Gradient}) {
    const auto set = options(cat("lasting-", static_cast<int>(kind)), kSteps);
    ToyTask task(set.settings.batch);
    int tries = 0;
    task.at_step = [&](std::int64_t iteration, int) {
      if (iteration != 12) return;
      ++tries;
      if (kind == Bad::Gradient && world().rank() == rank) fault::arm("train.gradient", fault::Action::Spoil);
    };
    if (kind == Bad::Activation)
      task.bad_activation = [&](std::int64_t iteration, int) { return iteration == 12 && world().rank() == rank; };

    const auto error = error_of([&] { run(set, task); });

    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::Data);
    const std::string said = error->what();
    for (const std::string& part : {std::string("step 12"), cat("rank ", rank, " on ", world().host()),
                                    std::string(word_for(kind)), std::string("3 returns to the last good checkpoint")})
      EXPECT_NE(said.find(part), std::string::npos) << part << " is not in: " << said;
    EXPECT_EQ(tries, 4);
    EXPECT_EQ(stages::newest_checkpoint(set.folder / "checkpoints")->iteration, 10);
  }
}

// crash_loop: a checkpoint that verifies and yet is of no use. Each start ends in the same error, which is none that
// asks for another start.
TEST_F(NanGuard, APoisonedCheckpointEndsEveryStartWithItsCause) {
  auto set = options("poisoned", 20);
  ASSERT_EQ(run(set), 20);
  const Path newest = checkpoint_of(set.folder, 20);
  if (world().is_root()) {
    auto state = stages::read_checkpoint_state(newest);
    ToyTask task(set.settings.batch);
    nn::TensorMap model = nn::load_tensors(newest / "model.safetensors");
    model.at("second")[3][1] = std::nan("");
    stages::StateTensors tensors;
    for (const char* file : {"model", "ema", "optimizer"})
      for (const auto& [name, tensor] :
           std::string(file) == "model" ? model : nn::load_tensors(newest / (std::string(file) + ".safetensors")))
        tensors[file].emplace_back(name, tensor);
    stages::write_checkpoint(set.folder / "checkpoints", state, tensors);
    EXPECT_FALSE(stages::verify_checkpoint(newest));
  }
  world().barrier();
  set.settings.iterations = kSteps;
  for (int start = 0; start < 2; ++start) {
    const auto error = error_of([&] { run(set); });

    ASSERT_TRUE(error);
    EXPECT_NE(exit_code(error->kind()), 75);
    const std::string said = error->what();
    EXPECT_NE(said.find("step 20"), std::string::npos) << said;
    EXPECT_NE(said.find("loss_fit"), std::string::npos) << said;
    EXPECT_NE(said.find("rank 0 on "), std::string::npos) << said;
  }
}

TEST(NanGuardOfTheDetector, StepsAreDoneAgainFromTheLastGoodState) {
  SmallWorld small;
  const stages::RunContext clean = small.run("clean");
  run_train(clean, small.training);
  const int rank = world().size() - 1;
  for (int kind = 0; kind < 3; ++kind) {
    const stages::RunContext spoilt = small.run(cat("spoilt-", kind));
    if (world().rank() == rank) fault::arm(kPoints[kind], fault::Action::Spoil, 7);

    run_train(spoilt, small.training);

    fault::disarm();
    expect_same_training(spoilt.dir.training("small"), clean.dir.training("small"), small.training.iterations);
    const auto record = read_record(spoilt.dir, "train.small");
    ASSERT_TRUE(record);
    EXPECT_EQ(record->figures.at("rollbacks"), 1) << kPoints[kind];
  }
}

TEST_F(ReplicaDrift, OneFlippedBitIsCaughtAtTheNextCompareAndItsRankNamed) {
  if (world().size() == 1) GTEST_SKIP() << "a single replica cannot drift";
  const auto clean = options("clean", kSteps);
  ASSERT_EQ(run(clean), kSteps);

  Rng rng(23);
  for (int n = 0; n < times(4, 40); ++n) {
    const auto set = options(cat("drift-", n), kSteps);
    const auto step = rng.range(0, kSteps - 1);
    const auto rank = static_cast<int>(rng.below(static_cast<std::uint64_t>(world().size())));
    const auto element = static_cast<std::int64_t>(rng.below(8 * 16));
    const auto bit = 8 + rng.below(12);  // of the mantissa: too much to be rounded away, too little to be no number
    const std::int64_t compare = (step / 10 + 1) * 10;
    ToyTask task(set.settings.batch);
    std::int64_t last = -1;
    task.at_step = [&](std::int64_t iteration, int) {
      last = iteration;
      if (iteration != step || world().rank() != rank) return;
      at::NoGradGuard no_grad;
      auto* bits = reinterpret_cast<std::uint32_t*>(task.net.first.mutable_data_ptr<float>());
      bits[element] ^= 1u << bit;
    };

    const auto error = error_of([&] { run(set, task); });

    ASSERT_TRUE(error);
    const std::string said = error->what();
    EXPECT_EQ(last, compare - 1) << said;
    EXPECT_NE(said.find("drifted apart"), std::string::npos) << said;
    EXPECT_NE(said.find("first"), std::string::npos) << said;
    // Of two ranks it cannot be said which one is right: both are named.
    EXPECT_NE(said.find(world().size() > 2 ? cat("rank ", rank, " on ", world().host()) : cat("rank ", rank)),
              std::string::npos)
        << said;
    if (world().size() > 2) {
      for (int other = 0; other < world().size(); ++other)
        if (other != rank) {
          EXPECT_EQ(said.find(cat("rank ", other, " ")), std::string::npos) << said;
        }
    }
    // What had drifted was not saved, and the next start ends as if nothing had been. Rank 0 may still be writing.
    world().barrier();
    const auto newest = stages::newest_checkpoint(set.folder / "checkpoints");
    EXPECT_EQ(newest ? newest->iteration : 0, compare - 10);
    world().barrier();
    ASSERT_EQ(run(set), kSteps);
    expect_same_training(set.folder, clean.folder, kSteps);
  }
}

TEST_F(OneRankSignalled, AllRanksStopAtTheSameStep) {
  for (int rank = 0; rank < world().size(); ++rank)
    for (const std::int64_t step : {0, 9, 17}) {
      const auto set = options(cat("signal-", rank, "-", step), kSteps);
      ToyTask task(set.settings.batch);
      std::int64_t last = -1;
      task.at_step = [&](std::int64_t iteration, int) { last = iteration; };

      const auto stopped = run(set, task, [&] { return world().rank() == rank && last >= step; });

      EXPECT_EQ(last, step);
      EXPECT_EQ(stopped, step + 1);
      EXPECT_FALSE(stages::verify_checkpoint(checkpoint_of(set.folder, step + 1)));
    }
}

}  // namespace divergen::test

DIVERGEN_MPI_MAIN()
