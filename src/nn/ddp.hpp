#pragma once
// Data-parallel training: every rank holds a replica of the model and its own part of the batch, and gradients are
// averaged over the ranks while backward is still going on (c10d::Reducer, the engine inside PyTorch's
// DistributedDataParallel, over MPI for tensors in main memory and over NCCL for those on GPUs).
//
//   DataParallel replicas(model, world, {});
//   for each step:
//     clear the gradients (to undefined, not to zero); losses = forward
//     replicas.prepare_for_backward({loss});  loss.backward();  replicas.finish_backward();  optimizer step
//
// As DistributedDataParallel does, what comes out is the mean of the ranks' gradients: the gradient of the joined batch
// when every rank's loss is a mean over equally many items. On one rank nothing is communicated and nothing changes.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "comm/world.hpp"
#include "nn/module.hpp"

namespace divergen::nn {

struct DataParallelOptions {
  /// Parameters that a step's losses do not reach (on some ranks or all) are allowed; the graph is searched for them
  /// in each step. The reference trains so (find_unused_parameters=True). Without it, every parameter must get a
  /// gradient in every step.
  bool find_unused_parameters = true;
  /// Gradients travel in buckets of about this size; 0: 25 MiB on GPUs (DistributedDataParallel's default), 1 MiB over
  /// MPI. Results do not depend on it.
  std::int64_t bucket_bytes = 0;
  /// After this long, and a little more, in one collective of NCCL the process ends (0: never): the second line behind
  /// comm::Watchdog, which names the rank.
  double timeout_seconds = 300;
  /// Where NCCL's flight recorder leaves nccl-trace.<rank> when it comes to that; empty: PyTorch's default.
  Path dump_folder;
};

class DataParallel {
 public:
  /// Collective. Gives all ranks rank 0's tensors (parameters and buffers) bit by bit; what requires_grad now is what
  /// is averaged. `module` must outlive the object and keep its parameters (same tensors, same device, contiguous).
  /// Throws Error(Bug) when the ranks' modules differ in names, shapes or types.
  DataParallel(Module& module, comm::World& world, const DataParallelOptions& options);
  /// Collective.
  ~DataParallel();
  DataParallel(const DataParallel&) = delete;
  DataParallel& operator=(const DataParallel&) = delete;

  /// Before each backward whose gradients are to be averaged. `losses`: the tensors that backward starts from; their
  /// graph is searched for unused parameters. A backward without this call only accumulates into this rank's gradients.
  void prepare_for_backward(const std::vector<at::Tensor>& losses);
  /// After backward: the gradients are the averages. Parameters that no rank used keep what they had (nothing, when
  /// the gradients were cleared). Bit-identical from run to run for the same number of ranks (on CPUs).
  void finish_backward();

  /// What finish_backward left to the device has been waited for. (Until then this rank stands in a collective.)
  void device_is_done();
  /// From now on for collectives of NCCL.
  void set_timeout(double seconds);
  /// 0-dim, on the parameters' device: above 0 when one of the gradients that this rank itself had in the last reduced
  /// backward was not a finite number. Afterwards the averages of all ranks are none: this says whose fault it was.
  /// Undefined on a single rank, where the gradients themselves tell.
  at::Tensor bad_local_gradients() const;

  /// The first tensor (parameters and buffers, in state_dict order) whose bits differ between ranks; nothing when all
  /// replicas are equal. The same answer on all ranks. Collective; reads all of the model.
  std::optional<std::string> differing_tensor() const;
  /// Throws Error(Bug) on all ranks when there is one, naming it and the ranks that differ from most (from rank 0 where
  /// there is no majority). Collective.
  void check_replicas() const;

 private:
  struct Engine;  // c10d
  Module& module_;
  comm::World& world_;
  std::unique_ptr<Engine> engine_;  // none on a single rank
};

/// The same averages without overlap or buckets: one gradient after another. Main memory only; the measure that tests
/// hold DataParallel against, to the last bit. Collective; after backward.
void reduce_plain(Module& module, comm::World& world);

}  // namespace divergen::nn
