#pragma once
// What the engine's two files share: engine.cpp has the steps, recovery.cpp where they start, what they leave on disk
// and the way back from a bad one. Private to them.

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cmath>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/text.hpp"
#include "nn/adamw.hpp"
#include "nn/amp.hpp"
#include "nn/ddp.hpp"
#include "nn/ema.hpp"
#include "nn/lr_schedule.hpp"
#include "stages/train/checkpoint.hpp"
#include "stages/train/engine.hpp"
#include "stages/train/training_log.hpp"

namespace divergen::stages {

using EngineClock = std::chrono::steady_clock;
using NamedValues = std::vector<std::pair<std::string, at::Tensor>>;

/// What a checkpoint or the result holds of a module: detached, shared memory.
inline NamedValues persistent(const std::vector<nn::NamedTensor>& tensors) {
  NamedValues out;
  for (const auto& entry : tensors)
    if (entry.is_persistent) out.emplace_back(entry.name, entry.tensor.detach());
  return out;
}

inline double seconds_since(EngineClock::time_point start) {
  return std::chrono::duration<double>(EngineClock::now() - start).count();
}

/// What one step told all ranks; the same on each of them.
struct Agreed {
  bool stop = false, bad_number = false, write_failed = false;
  double waited = 0;                    // seconds of all ranks together
  std::map<std::string, double> terms;  // means over ranks
};

struct TrainingEngine::State {
  State(TrainingTask& task_, comm::World& world_, TrainingOptions options_)
      : task(task_),
        world(world_),
        options(std::move(options_)),
        writer(checkpoints(), {settings().keep_checkpoints, settings().keep_every}) {
    if (settings().batch % shares() != 0)
      fail(ErrorKind::Config,
           {"the batch cannot be shared evenly by the ranks", cat("train.batch of '", settings().name, "'"),
            cat("it is ", settings().batch, ", and there are ", world.size(), " ranks",
                settings().accumulate > 1 ? cat(" with train.accumulate = ", settings().accumulate) : ""),
            "choose a number of ranks, times train.accumulate, that divides it"});
    schedule = {settings().lr, settings().iterations, settings().warmup, settings().warmup_factor};
  }

  const config::TrainSettings& settings() const { return options.settings; }
  /// Of the batch: what decides, with the seed, all but the last bits.
  std::int64_t shares() const { return world.size() * settings().accumulate; }
  Path checkpoints() const { return options.folder / "checkpoints"; }

  // engine.cpp
  void begin();
  void backward(const at::Tensor& total);
  Agreed step();
  Agreed agree(const std::map<std::string, at::Tensor>& terms, const at::Tensor& grad_norm);
  void log_window(double lr);
  void advance(const Agreed& agreed);
  TrainingResult result_of(EngineClock::time_point start, double waited_before) const;
  // recovery.cpp
  void fresh();
  void restore();
  bool load_newest();
  StateTensors tensors() const;
  void compare_replicas();
  void save();
  void settle();
  bool weights_are_finite();
  std::string name_bad_numbers();
  void roll_back();

  TrainingTask& task;
  comm::World& world;
  TrainingOptions options;
  nn::WarmupCosine schedule;
  std::optional<nn::DataParallel> parallel;
  std::optional<nn::Ema> ema;
  std::optional<nn::AdamW> optimizer;
  std::optional<nn::GradScaler> scaler;  // with fp16
  std::optional<TrainingLog> log;
  CheckpointWriter writer;
  std::exception_ptr log_problem;
  const std::function<bool()>* stop_requested = nullptr;

  std::int64_t iteration = 0, saved_iteration = -1;
  std::int64_t first_shares = 1;        // of the batch, when the training began
  double seconds_before = 0;            // of training, at the last restore
  EngineClock::time_point clock_start;  // of the last restore
  LogWindow window;
  double window_seconds_before = 0;  // of the window, at the last restore
  EngineClock::time_point window_start;
  double waited_seen = 0;
  std::int64_t steps = 0, rollbacks = 0, bad_iteration = -1;
  std::string bad_terms;       // of this rank and step: losses that are no finite numbers
  bool bad_gradients = false;  // of this rank and step, before they were averaged
  double last_loss = std::nan("");
};

}  // namespace divergen::stages
