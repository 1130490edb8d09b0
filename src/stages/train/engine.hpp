#pragma once
// The training loop of the study, for any network: data parallel over the ranks, resumable to the bit, guarded against
// losses that are no numbers (reference/semantics.md §8.1; reference/reliability.md §5).
//
// Everything that is drawn at step i is a pure function of (seed, i, rank), and the learning rate of i: a checkpoint is
// the tensors and the step. One small sum over the ranks a step carries all that they must agree on (stop, bad numbers,
// a failed checkpoint) and the loss terms of the log, so that the log too is the same after an interruption.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/fs.hpp"
#include "comm/progress.hpp"
#include "comm/world.hpp"
#include "config/settings.hpp"
#include "nn/module.hpp"

namespace divergen::stages {

/// What is trained. The engine calls it from one thread.
class TrainingTask {
 public:
  virtual ~TrainingTask() = default;
  virtual nn::Module& module() = 0;
  /// Fills the module with its initial values, the same on every rank and every time.
  virtual void initialise() = 0;
  /// The next call of losses() is for `iteration`.
  virtual void seek(std::int64_t iteration) = 0;
  /// Loss terms of this rank's share of the batch, 0-dim with their graphs; their sum is minimised. Every rank returns
  /// the same names. Draws come from (seed, iteration, rank). Collective where the task reduces over ranks.
  virtual std::map<std::string, at::Tensor> losses(std::int64_t iteration) = 0;
  /// Seconds that losses() has waited for samples, in all.
  virtual double waited_seconds() const = 0;
};

struct TrainingOptions {
  config::TrainSettings settings;
  Path folder;              // log.jsonl, checkpoints/, tensorboard/
  std::string fingerprint;  // of what the result depends on; checkpoints with another one are refused
  std::string config_hash;
  /// Rank 0 is told how far the training is, at every line of the log.
  std::function<void(const comm::ProgressView&)> report_progress = [](const comm::ProgressView&) {};
};

struct TrainingResult {
  std::int64_t iterations = 0;
  std::int64_t steps = 0;        // done by this start, repeated ones included
  double seconds = 0;            // of training, over all starts
  double busy_seconds = 0;       // of this start and rank, without waiting for samples
  double images_per_second = 0;  // of this start, all ranks together
  double data_wait = 0;          // share of this start's time, mean over ranks
  double loss_total = 0;         // of the last line of the log that this start wrote
  std::int64_t rollbacks = 0;
};

/// Collective: constructor, run() and the rest, on all ranks.
class TrainingEngine {
 public:
  /// Throws Error(Config) when the batch cannot be shared evenly by the ranks.
  TrainingEngine(TrainingTask& task, comm::World& world, TrainingOptions options);
  ~TrainingEngine();

  /// Goes on from the newest checkpoint that verifies, or from the start, to the last step, whose checkpoint is
  /// published on return. Throws Error(Stopped) after a checkpoint when a rank was asked to stop, Error(Data) when the
  /// loss stays no number, Error(Config) for checkpoints of other settings, Error(Io | NoSpace).
  TrainingResult run(const std::function<bool()>& stop_requested);

  /// Persistent tensors that are the result: the averages with ema > 0, else the module's own. Shares memory.
  std::vector<std::pair<std::string, at::Tensor>> result() const;
  /// The module's own persistent tensors. Shares memory.
  std::vector<std::pair<std::string, at::Tensor>> raw() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace divergen::stages
