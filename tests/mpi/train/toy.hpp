#pragma once
// A network of two matrices whose samples come from one stream that all ranks share, as the detector's do, and what the
// tests of the engine's promises need around it: runs, interruptions, and everything that must be equal afterwards.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <numeric>
#include <set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "mpi/mpi_main.hpp"
#include "stages/train/checkpoint.hpp"
#include "stages/train/engine.hpp"

namespace divergen::test {

inline at::Tensor noise(std::uint64_t seed, at::IntArrayRef sizes) {
  Rng rng(seed);
  at::Tensor out = at::empty(sizes);
  for (std::int64_t i = 0; i < out.numel(); ++i) out.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal());
  return out;
}

struct ToyNet : nn::Module {
  ToyNet() {
    parameter("first", first, {8, 16});
    parameter("second", second, {16, 4});
    parameter("unused", unused, {3});
    buffer("scale", scale, {4});
  }
  at::Tensor first, second, unused, scale;
};

class ToyTask : public stages::TrainingTask {
 public:
  static constexpr std::uint64_t kEpoch = 7;  // samples; no divisor of a batch, so that most steps lie within an epoch

  explicit ToyTask(std::int64_t batch) : batch_(batch) {}

  /// Called on every rank in every step, with how often the step has been asked for before (by this task).
  std::function<void(std::int64_t iteration, int times)> at_step = [](std::int64_t, int) {};
  /// Whether a number of the hidden layer is bad on this rank then.
  std::function<bool(std::int64_t iteration, int times)> bad_activation = [](std::int64_t, int) { return false; };
  /// (step, sample) that this rank was given, in order.
  std::vector<std::array<std::uint64_t, 2>> stream;

  nn::Module& module() override { return net; }
  void initialise() override {
    at::NoGradGuard no_grad;
    net.first.copy_(noise(1, {8, 16}) * 0.3);
    net.second.copy_(noise(2, {16, 4}) * 0.3);
    net.unused.fill_(7);
    net.scale.fill_(1.5);
  }
  void seek(std::int64_t iteration) override { next_ = iteration; }
  std::map<std::string, at::Tensor> losses(std::int64_t iteration) override {
    EXPECT_EQ(iteration, next_++);
    const int times = asked_[iteration]++;
    at_step(iteration, times);
    std::vector<at::Tensor> rows;
    for (std::int64_t k = world().rank(); k < batch_; k += world().size()) {
      const auto position = static_cast<std::uint64_t>(iteration * batch_ + k);
      const std::uint64_t sample = sample_at(position);
      stream.push_back({static_cast<std::uint64_t>(iteration), sample});
      // Like augmentation: the sample, and what is drawn for this place of the stream.
      rows.push_back(noise(derive_seed(5, "sample", {sample}), {1, 8}) +
                     noise(derive_seed(5, "draws", {position}), {1, 8}) * 0.1);
    }
    const at::Tensor x = at::cat(rows);
    at::Tensor h = at::tanh(at::matmul(x, net.first));
    if (bad_activation(iteration, times)) {
      at::Tensor bad = at::zeros_like(h);
      bad.select(0, 0).select(0, 3).fill_(std::nan(""));
      h = h + bad;
    }
    const at::Tensor y = at::matmul(h, net.second) * net.scale;
    return {{"loss_fit", (y - x.narrow(1, 0, 4)).square().mean()}, {"loss_size", h.square().mean() * 0.1}};
  }
  double waited_seconds() const override { return 0; }

  ToyNet net;

 private:
  static std::uint64_t sample_at(std::uint64_t position) {
    std::array<std::uint64_t, kEpoch> order{};
    std::iota(order.begin(), order.end(), 0u);
    Rng rng(derive_seed(5, "epoch", {position / kEpoch}));
    for (std::uint64_t i = kEpoch - 1; i > 0; --i) std::swap(order[i], order[rng.below(i + 1)]);
    return order[position % kEpoch];
  }

  std::int64_t batch_, next_ = -1;
  std::map<std::int64_t, int> asked_;
};

/// What an interruption from outside is to the engine when nothing is saved.
struct Crash : std::exception {
  const char* what() const noexcept override { return "crash"; }
};

/// The log without what a clock says, a line each.
inline std::vector<std::string> timeless_log(const Path& folder) {
  std::vector<std::string> out;
  for (const std::string& line : split(read_file(folder / "log.jsonl"), '\n')) {
    if (line.empty()) continue;
    nlohmann::json entry = nlohmann::json::parse(line);
    for (const char* key : {"seconds", "data_wait", "images_per_second", "memory_mb"}) entry.erase(key);
    out.push_back(entry.dump());
  }
  return out;
}

inline constexpr const char* kTensorFiles[] = {"model.safetensors", "ema.safetensors", "optimizer.safetensors"};

/// Checkpoint of an iteration in a training's folder.
inline Path checkpoint_of(const Path& folder, std::int64_t iteration) {
  const std::string digits = std::to_string(iteration);
  return folder / "checkpoints" / ("iter-" + std::string(8 - digits.size(), '0') + digits);
}

/// Weights, averages, moments and log of two trainings of so many steps, to the last bit.
inline void expect_same_training(const Path& a, const Path& b, std::int64_t iterations) {
  for (const char* file : kTensorFiles)
    EXPECT_TRUE(read_file(checkpoint_of(a, iterations) / file) == read_file(checkpoint_of(b, iterations) / file))
        << file;
  EXPECT_EQ(timeless_log(a), timeless_log(b));
}

/// A folder for all ranks, and trainings in it.
class ToyTraining : public testing::Test {
 protected:
  void SetUp() override {
    static int number = 0;
    const Path mine = std::filesystem::temp_directory_path() / cat("divergen-toy-", ::getpid(), "-", number++);
    root_ = world().broadcast_text(mine.string());
  }
  void TearDown() override {
    world().barrier();
    std::error_code ignored;
    if (world().is_root()) std::filesystem::remove_all(root_, ignored);
  }

  stages::TrainingOptions options(const std::string& name, std::int64_t iterations) const {
    config::TrainSettings s;
    s.name = name;
    s.iterations = iterations;
    s.batch = 12;  // 1, 2, 3 and 4 ranks can share it
    s.lr = 0.02;
    s.warmup = 3;
    s.ema = 0.9;
    s.checkpoint_every = 10;
    s.keep_checkpoints = 3;
    s.log_every = 7;
    return {s, root_ / name, "fingerprint", "config"};
  }

  /// Runs until the end, a stop or a crash. Returns the steps that are done, or -1 after a crash.
  static std::int64_t run(
      const stages::TrainingOptions& options, ToyTask& task, const std::function<bool()>& stop = [] { return false; }) {
    try {
      stages::TrainingEngine engine(task, world(), options);
      return engine.run(stop).iterations;
    } catch (const Crash&) {
      return -1;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Stopped) throw;
      return stages::newest_checkpoint(options.folder / "checkpoints")->iteration;
    }
  }
  static std::int64_t run(const stages::TrainingOptions& options) {
    ToyTask task(options.settings.batch);
    return run(options, task);
  }

  /// Runs something that must end in an Error, and gives it.
  template <class Action>
  static std::optional<Error> error_of(const Action& action) {
    try {
      action();
    } catch (const Error& error) {
      return error;
    }
    ADD_FAILURE() << "no error was thrown";
    return std::nullopt;
  }

  /// What this rank's log says from now on, until it is asked for.
  Path listen() const {
    const Path file = root_ / cat("heard-", world().rank(), "-", heard_++, ".log");
    make_folder(root_);
    log::init({world().rank(), file.string(), log::Level::Info});
    return file;
  }
  static std::string heard(const Path& file) {
    log::flush();
    return read_file(file);
  }

  Path root_;

 private:
  mutable int heard_ = 0;
};

}  // namespace divergen::test
