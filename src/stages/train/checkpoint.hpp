#pragma once
// Checkpoints of a training: folders that are either whole or absent, and that are believed only after their hashes.
//
//   <folder>/iter-00000500/state.json            position, window of the log, facts, and the hash of each file below
//                          model.safetensors     parameters and persistent buffers
//                          ema.safetensors       their averages (absent without averaging)
//                          optimizer.safetensors moments and step counts
//
// A checkpoint is written under a temporary name, every file flushed, then renamed (base/fs.hpp's protocol, for a
// folder). There is no mutable pointer to the newest one: it is the newest folder that verifies.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <future>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fs.hpp"

namespace divergen::stages {

/// Means of the loss terms since the last line of the log: part of the state, so that a resumed log is the same.
struct LogWindow {
  std::int64_t steps = 0;
  std::map<std::string, double> sums;
  double waited = 0, seconds = 0;  // of all ranks together; of this process's clock
};

/// What a checkpoint says of itself.
struct CheckpointState {
  std::int64_t iteration = 0;  // steps that were done
  double seconds = 0;          // of training, over all starts
  std::uint64_t seed = 0;
  std::int64_t ranks = 1;
  std::int64_t first_ranks = 1;  // the same when the training began: the order of samples may be theirs
  std::string fingerprint;       // of everything the result depends on
  std::string config_hash, software;
  LogWindow window;
};

/// Named tensors of each file: "model", "ema", "optimizer".
using StateTensors = std::map<std::string, std::vector<std::pair<std::string, at::Tensor>>>;

/// Copies on the CPU that later steps do not touch.
StateTensors snapshot(const StateTensors& tensors);

/// Writes, reads back, publishes. An older folder of the same iteration is replaced. Throws Error(NoSpace | Io).
void write_checkpoint(const Path& folder, const CheckpointState& state, const StateTensors& tensors);

struct CheckpointEntry {
  Path path;
  std::int64_t iteration = 0;
};
/// All published checkpoints, newest first, verified or not.
std::vector<CheckpointEntry> list_checkpoints(const Path& folder);

/// Why a checkpoint cannot be used, or nothing when all its files have the hashes it names.
std::optional<std::string> verify_checkpoint(const Path& checkpoint);
/// Throws Error(Io | Data).
CheckpointState read_checkpoint_state(const Path& checkpoint);

/// The newest checkpoint that verifies; each damaged one on the way is logged. Nothing when there is none.
std::optional<CheckpointEntry> newest_checkpoint(const Path& folder);

/// Copies the values of a checkpoint into `tensors`. Names and shapes must agree: Error(Data) otherwise.
void load_checkpoint(const Path& checkpoint, const StateTensors& tensors);

/// Which checkpoints stay (reference/reliability.md §5).
struct Keeping {
  std::int64_t newest = 3;  // so many, at least one
  std::int64_t every = 0;   // and those of whole multiples of so many steps; 0: no others
};
/// Removes what does not stay of those up to iteration `newest`, which must have been verified, and those beyond it:
/// they were found damaged when this training was resumed from an older one.
void prune_checkpoints(const Path& folder, std::int64_t newest, const Keeping& keeping);

/// Writes in a thread, one checkpoint at a time, so that training goes on. Use from one thread.
class CheckpointWriter {
 public:
  CheckpointWriter(Path folder, const Keeping& keeping) : folder_(std::move(folder)), keeping_(keeping) {}
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Returns when the values are copied; waits first for the checkpoint before this one, and rethrows what stopped it.
  void start(CheckpointState state, const StateTensors& tensors);
  /// Whether the thread has ended with an error, which wait() throws. Cheap.
  bool has_failed();
  /// Blocks until everything started is published. Throws Error(NoSpace | Io).
  void wait();

 private:
  Path folder_;
  Keeping keeping_;
  std::future<void> writing_;
  std::exception_ptr problem_;
};

}  // namespace divergen::stages
