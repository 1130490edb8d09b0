#pragma once
// The training loop of the study, for any network: data parallel over the ranks, resumable to the bit, guarded against
// losses that are no numbers (reference/semantics.md §8.1; reference/reliability.md §5).
//
// Everything that is drawn at step i is a pure function of (seed, i, rank), and the learning rate of i: a checkpoint is
// the tensors and the step. One small sum over the ranks a step carries all that they must agree on (stop, bad numbers,
// a failed checkpoint) and the loss terms of the log, so that the log too is the same after an interruption.
//
// Gradient accumulation: n parts on each of R ranks are what one part on each of n R ranks is, part k of rank r
// standing for rank k R + r: the same samples, draws and normalisers, and the mean of all gradients. Only the order of
// a few sums differs (last bits). What the reference normalises on each GPU by itself (the box and mask losses, by the
// sampled proposals of its images) is normalised in each part by itself, as on n R GPUs of the reference.

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
  /// Called before seek(): into how many shares (ranks, times their parts) each batch was divided when the training
  /// began. What is in a batch must not depend on the shares of now, where it depends on shares at all.
  virtual void keep_batches_of(std::int64_t /*shares*/) {}
  /// The next call of losses() is for `iteration`.
  virtual void seek(std::int64_t iteration) = 0;
  /// Loss terms of this rank's share of the batch, 0-dim with their graphs; their sum is minimised. Every rank returns
  /// the same names. Draws come from (seed, iteration, rank). Collective where the task reduces over ranks.
  virtual std::map<std::string, at::Tensor> losses(std::int64_t iteration) = 0;
  /// With train.accumulate: the terms of the part-th of `parts` equal parts of this rank's share, as if it were the
  /// whole of it; the mean over parts and ranks is minimised. Called for all parts of an iteration, in order; each
  /// graph is gone before the next call. A task that has no parts has one.
  virtual std::map<std::string, at::Tensor> part_losses(std::int64_t iteration, std::int64_t part, std::int64_t parts);
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
  Path logs;  // where NCCL leaves its record of a collective that hung; empty: `folder`
};

struct TrainingResult {
  std::int64_t iterations = 0;
  std::int64_t steps = 0;        // done by this start, repeated ones included
  double seconds = 0;            // of training, over all starts
  double busy_seconds = 0;       // of this start and rank, without waiting for samples
  double images_per_second = 0;  // of this start, all ranks together
  double data_wait = 0;          // share of this start's time, mean over ranks
  double begun = 0, ended = 0;   // of this start's steps, seconds since the epoch
  // Of this start and rank: for samples, for checkpoints, for other ranks' gradients and numbers (over MPI; on GPUs the
  // numbers alone).
  double waited_seconds = 0, commit_seconds = 0, comm_seconds = 0;
  double comm_overlap = 0;  // share of the gradients' way that backward did not wait for; 0 where it is not known
  double loss_total = 0;    // of the last line of the log that this start wrote
  std::int64_t rollbacks = 0;
};

/// Collective: constructor, run() and the rest, on all ranks. Notes where it is in rank_record(), with the patience of
/// train.init_timeout and train.step_timeout: under a comm::Watchdog a rank that is lost ends the job.
class TrainingEngine {
 public:
  /// Throws Error(Config) when the batch cannot be shared evenly by the ranks and their parts.
  TrainingEngine(TrainingTask& task, comm::World& world, TrainingOptions options);
  ~TrainingEngine();

  /// Goes on from the newest checkpoint that verifies, or from the start, to the last step, whose checkpoint is
  /// published on return. Throws Error(Stopped) after a checkpoint when a rank was asked to stop, Error(Data) when
  /// losses, gradients or weights are not finite after three returns to a good checkpoint (naming step, rank and what),
  /// or when there are checkpoints and none verifies; Error(Bug) when replicas differ; Error(Config) for checkpoints of
  /// other settings, Error(Io | NoSpace).
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
