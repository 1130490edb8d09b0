#pragma once
// Trains one network from scratch on pictures made on the fly: how the miniature models in data/mini/models came to be.
//
// Everything that happens at iteration i is a pure function of (seed, i): a run that is killed and started again ends
// with the same bits. One process; the machine's cores are used through ATen's threads and one thread that makes the
// next batch.

#include <any>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/fs.hpp"
#include "base/rng.hpp"
#include "nn/module.hpp"

namespace divergen::stages {

struct PretrainOptions {
  Path out;  // checkpoints, log.jsonl, samples
  std::int64_t iterations = 1000;
  std::int64_t batch = 16;
  double lr = 1e-3;
  std::int64_t warmup = 100;  // iterations of linear warm-up; a half cosine to 0 follows
  double weight_decay = 0.01;
  double beta2 = 0.999;
  double clip_norm = 1.0;
  double ema = 0.999;              // decay of the averaged weights, which are the result
  std::string precision = "fp32";  // or bf16: of the forward and backward pass; weights, loss and optimizer are fp32
  std::uint64_t seed = 1;
  std::int64_t log_every = 50;
  std::int64_t save_every = 500;
  std::int64_t sample_every = 1000;  // how often the task is asked for sample pictures
};

/// One thing to train: owns the network, makes its batches, computes its loss.
class PretrainTask {
 public:
  virtual ~PretrainTask() = default;

  virtual nn::Module& module() = 0;
  /// Fills the network with its initial values, drawn from `seed`.
  virtual void initialise(std::uint64_t seed) = 0;
  /// Makes a batch, on another thread than loss(); must only read the task. Pure function of `rng`.
  virtual std::any make_batch(Rng rng, std::int64_t size) const = 0;
  /// Scalar loss with its graph; adds what is worth logging to `terms` (detached 0-dim tensors). Randomness of the
  /// step itself (noise, time steps) comes from `seed`.
  virtual at::Tensor loss(const std::any& batch, std::uint64_t seed, std::map<std::string, at::Tensor>& terms) = 0;
  /// Writes pictures that show how far it has come. Called with the averaged weights in place.
  virtual void sample(const Path& folder, std::int64_t iteration) = 0;
  /// Writes the result in its official layout. Called with the averaged weights in place.
  virtual void write(const Path& folder) = 0;
};

struct PretrainResult {
  std::int64_t iterations = 0;
  double seconds = 0;                  // of training, summed over all starts
  std::map<std::string, double> last;  // smoothed terms at the end
};

/// Trains from the newest checkpoint under options.out, or from the start, to options.iterations; stops early when
/// `stop()` says so (after a checkpoint). Throws Error(Data) when the loss stops being finite.
PretrainResult pretrain(PretrainTask& task, const PretrainOptions& options, const std::function<bool()>& stop);

}  // namespace divergen::stages
