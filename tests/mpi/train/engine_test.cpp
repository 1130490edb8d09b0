// The training engine on a network of two matrices: interruptions, damage, bad numbers.

#include "stages/train/engine.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "mpi/mpi_main.hpp"
#include "nn/tensor_io.hpp"
#include "stages/train/checkpoint.hpp"

namespace divergen::stages {
namespace {

using test::world;

at::Tensor noise(std::uint64_t seed, at::IntArrayRef sizes) {
  Rng rng(seed);
  at::Tensor out = at::empty(sizes);
  for (std::int64_t i = 0; i < out.numel(); ++i) out.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal());
  return out;
}

struct TwoLayers : nn::Module {
  TwoLayers() {
    parameter("first", first, {8, 16});
    parameter("second", second, {16, 4});
    parameter("unused", unused, {3});
    buffer("scale", scale, {4});
  }
  at::Tensor first, second, unused, scale;
};

/// `bad(iteration, how often it has been asked for)`: whether the loss is no number then, on the last rank.
class TwoLayersTask : public TrainingTask {
 public:
  std::function<bool(std::int64_t, int)> bad = [](std::int64_t, int) { return false; };

  nn::Module& module() override { return module_; }
  void initialise() override {
    at::NoGradGuard no_grad;
    module_.first.copy_(noise(1, {8, 16}) * 0.3);
    module_.second.copy_(noise(2, {16, 4}) * 0.3);
    module_.unused.fill_(7);
    module_.scale.fill_(1.5);
  }
  void seek(std::int64_t iteration) override { next_ = iteration; }
  std::map<std::string, at::Tensor> losses(std::int64_t iteration) override {
    EXPECT_EQ(iteration, next_++);
    const auto step = static_cast<std::uint64_t>(iteration), rank = static_cast<std::uint64_t>(world().rank());
    const at::Tensor x = noise(derive_seed(5, "x", {step, rank}), {6, 8});
    const at::Tensor h = at::tanh(at::matmul(x, module_.first));
    const at::Tensor y = at::matmul(h, module_.second) * module_.scale;
    std::map<std::string, at::Tensor> out{{"loss_fit", (y - x.narrow(1, 0, 4)).square().mean()},
                                          {"loss_size", h.square().mean() * 0.1}};
    if (bad(iteration, asked_[iteration]++) && world().rank() == world().size() - 1)
      out["loss_fit"] = out["loss_fit"] * std::nan("");
    return out;
  }
  double waited_seconds() const override { return 0; }

 private:
  TwoLayers module_;
  std::int64_t next_ = -1;
  std::map<std::int64_t, int> asked_;
};

class Engine : public testing::Test {
 protected:
  void SetUp() override {
    static int number = 0;
    const Path mine = std::filesystem::temp_directory_path() / cat("divergen-engine-", ::getpid(), "-", number++);
    root_ = world().broadcast_text(mine.string());
  }
  void TearDown() override {
    world().barrier();
    std::error_code ignored;
    if (world().is_root()) std::filesystem::remove_all(root_, ignored);
  }

  TrainingOptions options(const std::string& name) const {
    config::TrainSettings s;
    s.name = name;
    s.iterations = 20;
    s.batch = 6;
    s.lr = 0.02;
    s.warmup = 3;
    s.ema = 0.9;
    s.checkpoint_every = 5;
    s.keep_checkpoints = 2;
    s.log_every = 4;
    return {s, root_ / name, "fingerprint", "config"};
  }

  struct Outcome {
    TrainingResult result;
    nn::TensorMap tensors;
  };
  Outcome train(const TrainingOptions& options, TwoLayersTask& task) const {
    TrainingEngine engine(task, world(), options);
    Outcome out{engine.run([] { return false; }), {}};
    for (const auto& [name, tensor] : engine.result()) out.tensors["result." + name] = tensor.clone();
    for (const auto& [name, tensor] : engine.raw()) out.tensors["raw." + name] = tensor.clone();
    return out;
  }
  Outcome train(const TrainingOptions& options) const {
    TwoLayersTask task;
    return train(options, task);
  }

  static void expect_equal(const nn::TensorMap& a, const nn::TensorMap& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, tensor] : a) EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
  }

  Path root_;
};

}  // namespace

TEST_F(Engine, LearnsAndKeepsTheNewestCheckpoints) {
  const auto set = options("learns");

  const Outcome outcome = train(set);

  EXPECT_EQ(outcome.result.iterations, 20);
  EXPECT_LT(outcome.result.loss_total, 1.2);
  EXPECT_FALSE(at::equal(outcome.tensors.at("result.first"), outcome.tensors.at("raw.first")));
  EXPECT_TRUE(at::equal(outcome.tensors.at("raw.unused"), at::full({3}, 7.0f)));
  const auto kept = list_checkpoints(set.folder / "checkpoints");
  ASSERT_EQ(kept.size(), 2u);
  EXPECT_EQ(kept[0].iteration, 20);
  EXPECT_EQ(kept[1].iteration, 15);
}

TEST_F(Engine, AveragesBeforeTheStep) {
  auto set = options("averages");
  set.settings.iterations = 1;
  TwoLayersTask task;

  const Outcome outcome = train(set, task);

  // The only update came before the only step, so that the average is still the initial value, up to e·d + (1-d)·m.
  EXPECT_TRUE(at::allclose(outcome.tensors.at("result.first"), noise(1, {8, 16}) * 0.3, 1e-6, 1e-7));
}

TEST_F(Engine, GoesOnFromTheCheckpointBeforeADamagedOne) {
  const auto set = options("damaged");
  const Outcome whole = train(set);
  const Path checkpoints = set.folder / "checkpoints";
  const std::string log = read_file(set.folder / "log.jsonl");
  for (const char* file : {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}) {
    if (world().is_root()) {
      const Path damaged = checkpoints / "iter-00000020" / file;
      std::string bytes = read_file(damaged);
      bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x10);
      write_file_atomic(damaged, bytes);
      ASSERT_TRUE(verify_checkpoint(checkpoints / "iter-00000020")) << file;
    }
    world().barrier();

    const Outcome again = train(set);

    EXPECT_EQ(again.result.steps, 5) << file;
    expect_equal(again.tensors, whole.tensors);
  }
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 5);
  const std::string now = read_file(set.folder / "log.jsonl");
  EXPECT_EQ(std::count(now.begin(), now.end(), '\n'), 5);
}

TEST_F(Engine, DoesNothingMoreWhenAllStepsAreDone) {
  const auto set = options("done");
  const Outcome first = train(set);

  const Outcome second = train(set);

  EXPECT_EQ(second.result.steps, 0);
  expect_equal(first.tensors, second.tensors);
}

TEST_F(Engine, RefusesCheckpointsOfAnotherTraining) {
  auto set = options("other");
  train(set);
  set.fingerprint = "another";
  TwoLayersTask task;
  TrainingEngine engine(task, world(), set);

  try {
    engine.run([] { return false; });
    FAIL() << "it should have been refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
  }
}

TEST_F(Engine, RedoesStepsFromTheLastCheckpointAfterABadNumber) {
  const Outcome whole = train(options("good"));
  const auto set = options("passing");
  TwoLayersTask task;
  task.bad = [](std::int64_t iteration, int times) { return (iteration == 3 || iteration == 12) && times == 0; };

  const Outcome outcome = train(set, task);

  EXPECT_EQ(outcome.result.rollbacks, 2);
  EXPECT_EQ(outcome.result.steps, 20 + 3 + 2);
  expect_equal(outcome.tensors, whole.tensors);
  const std::string log = read_file(set.folder / "log.jsonl");
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 5);
}

TEST_F(Engine, GivesUpWhenANumberStaysBad) {
  const auto set = options("lasting");
  TwoLayersTask task;
  task.bad = [](std::int64_t iteration, int) { return iteration == 7; };
  TrainingEngine engine(task, world(), set);

  try {
    engine.run([] { return false; });
    FAIL() << "it should have given up";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Data);
  }
  EXPECT_EQ(newest_checkpoint(set.folder / "checkpoints")->iteration, 5);
}

TEST_F(Engine, RefusesABatchThatRanksCannotShare) {
  auto set = options("uneven");
  set.settings.batch = 7;
  TwoLayersTask task;

  if (world().size() == 1) EXPECT_NO_THROW(TrainingEngine(task, world(), set));
  else EXPECT_THROW(TrainingEngine(task, world(), set), Error);
}

TEST_F(Engine, LeavesUnwritableFoldersWithAnErrorOnAllRanks) {
  const auto set = options("file");
  if (world().is_root()) {
    make_folder(set.folder);
    write_file_atomic(set.folder / "checkpoints", "not a folder");
  }
  world().barrier();
  TwoLayersTask task;
  TrainingEngine engine(task, world(), set);

  EXPECT_THROW(engine.run([] { return false; }), Error);
}

}  // namespace divergen::stages

DIVERGEN_MPI_MAIN()
