#pragma once
// PyTorch's collectives over MPI, for tensors in main memory: what c10d::Reducer reduces gradients with on CPUs. The
// LibTorch wheel has no backend for that which C++ can use (its gloo headers are missing, and it is built without MPI).

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <memory>

#include "comm/world.hpp"

namespace divergen::nn {

/// Collectives run one after another on a thread of the backend's own, in the order in which they were asked for (which
/// must be the same on all ranks), so that backward goes on meanwhile. Tensors are dense and contiguous, float32,
/// float64, int32 or int64; a failure of MPI is thrown as Error(Comm) by Work::wait(). Sums are bit-identical from run
/// to run and on all ranks (comm::Channel::sum).
class MpiBackend : public c10d::Backend {
 public:
  /// Collective, from the main thread.
  explicit MpiBackend(comm::World& world);
  /// Collective. Finishes what was asked for; while an exception is on its way it leaves unfinished work behind, whose
  /// partners may never come.
  ~MpiBackend() override;

  const std::string getBackendName() const override { return "divergen-mpi"; }
  /// SUM or AVG of one tensor, in place.
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override;
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& options) override;
  /// One tensor of each rank into outputs[0][rank].
  c10::intrusive_ptr<c10d::Work> allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                           std::vector<at::Tensor>& inputs,
                                           const c10d::AllgatherOptions& options) override;
  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions& options) override;

  /// After a backward: counts as TimeUse::Comm what it waited for, that is from when it had asked for its last
  /// collective (and had nothing else left to do) to when all were done.
  void count_wait();

 private:
  class Worker;
  std::shared_ptr<Worker> worker_;  // shared with its thread
  int exceptions_;
};

}  // namespace divergen::nn
