#include "nn/nccl_backend.hpp"

#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstdlib>

#include "base/error.hpp"
#include "base/hash.hpp"

namespace divergen::nn {
namespace {

// Two ranks on one GPU end in NCCL's "Duplicate GPU detected", deep in the first collective: say it before. Collective.
void check_devices(comm::World& world, at::Device device) {
  world.together([&] {
    DIVERGEN_CHECK(device.is_cuda() && device.has_index(), "NCCL needs a GPU with its number");
    const int there = c10::cuda::device_count();
    if (device.index() >= there)
      fail(ErrorKind::Config,
           {"the GPU is not there", cat(device.str(), " of rank ", world.rank(), " on ", world.host()),
            cat("CUDA sees ", there, " GPUs"), "start as many ranks a node as it has GPUs, or set the device to cpu"});
  });
  // By the GPU's own number: each rank may see but one GPU, and call it cuda:0 (srun --gpus-per-task).
  const auto& uuid = at::cuda::getDeviceProperties(device.index())->uuid;
  const std::string mine = cat(world.host(), " GPU-", to_hex(hash64({uuid.bytes, sizeof(uuid.bytes)})));
  const std::vector<std::string> all = world.gather_texts(mine);
  world.together([&] {
    for (std::size_t i = 0; i < all.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (all[i] == all[j])
          fail(ErrorKind::Config, {"two ranks share a GPU", cat("ranks ", j, " and ", i, " on ", all[i]),
                                   "NCCL wants one rank a GPU", "start as many ranks a node as it has GPUs"});
  });
}

// The store through which NCCL's first id travels. Rank 0 serves it on a free port. Collective.
c10::intrusive_ptr<c10d::Store> make_store(comm::World& world, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.numWorkers = static_cast<std::size_t>(world.size());
  options.waitWorkers = false;  // they learn the port only after the server is up
  options.timeout = timeout;
  // Ranks of one node need no name service.
  const std::string host =
      world.any(world.local_size() != world.size()) ? world.broadcast_text(world.host()) : std::string("127.0.0.1");
  c10::intrusive_ptr<c10d::TCPStore> store;
  const auto connect = [&] {
    try {
      store = c10::make_intrusive<c10d::TCPStore>(host, options);
    } catch (const std::exception& error) {
      fail(ErrorKind::Comm, {"the ranks do not find each other for NCCL", cat(host, ":", options.port), error.what(),
                             "the nodes must reach each other by name over TCP: ask `divergen doctor`"});
    }
  };
  options.port = 0;
  options.isServer = true;
  world.together([&] {
    if (world.is_root()) connect();
  });
  const std::string port = world.broadcast_text(store ? cat(store->getPort()) : "");
  options.port = static_cast<std::uint16_t>(std::stoi(port));
  options.isServer = false;
  world.together([&] {
    if (!world.is_root()) connect();
  });
  return store;
}

// reference/reliability.md §2, row "c10d NCCL"; what the user's environment says goes before.
void watch_collectives(const Path& dump_folder) {
  const auto set = [](const char* name, const std::string& value) { ::setenv(name, value.c_str(), /*overwrite=*/0); };
  set("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1");  // a collective that fails or lasts too long ends the process
  set("TORCH_NCCL_DUMP_ON_TIMEOUT", "1");       // after it has said which one
  set("TORCH_NCCL_TRACE_BUFFER_SIZE", "2000");  // collectives that the flight recorder remembers: PyTorch's advice
  if (!dump_folder.empty()) set("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", (dump_folder / "nccl-trace.").string());
}

}  // namespace

c10::intrusive_ptr<c10d::Backend> make_nccl_backend(comm::World& world, at::Device device, double timeout_seconds,
                                                    const Path& dump_folder) {
  watch_collectives(dump_folder);
  check_devices(world, device);
  const auto timeout = std::chrono::milliseconds(static_cast<std::int64_t>(1000 * timeout_seconds));
  c10::cuda::set_device(device.index());
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  // Gradients go before the kernels of backward that are still queued: they are what the next step waits for.
  options->is_high_priority_stream = true;
  auto backend =
      c10::make_intrusive<c10d::ProcessGroupNCCL>(make_store(world, timeout), world.rank(), world.size(), options);
  backend->setBoundDeviceId(device);
  return backend;
}

}  // namespace divergen::nn
