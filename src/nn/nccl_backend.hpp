#pragma once
// NCCL for gradients on GPUs. Only built where LibTorch has CUDA (DIVERGEN_HAVE_TORCH_CUDA).

#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "base/fs.hpp"
#include "comm/world.hpp"

namespace divergen::nn {

/// Collective, from the main thread; one rank a GPU (`device` has an index, and no other rank uses it). Ranks find each
/// other through a TCP store on rank 0, whose address goes round over MPI. Throws Error(Config) when this machine has
/// no such GPU, Error(Comm) when ranks do not find each other. A collective that takes longer than `timeout_seconds`
/// (a rank died) ends the process through PyTorch's watchdog, which writes its flight record to
/// `dump_folder`/nccl-trace.<rank>.
c10::intrusive_ptr<c10d::Backend> make_nccl_backend(comm::World& world, at::Device device, double timeout_seconds,
                                                    const Path& dump_folder);

}  // namespace divergen::nn
