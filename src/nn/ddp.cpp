#include "nn/ddp.hpp"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <chrono>
#include <exception>
#include <map>
#include <span>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/rank_record.hpp"
#include "base/text.hpp"
#include "nn/mpi_backend.hpp"
#include "nn/scale_finite.hpp"
#ifdef DIVERGEN_HAVE_TORCH_CUDA
#include "nn/nccl_backend.hpp"
#endif

namespace divergen::nn {
namespace {

// Each tensor once, also where two names share it.
std::vector<at::Tensor> trained_parameters(const Module& module) {
  std::vector<at::Tensor> out;
  for (const NamedTensor& named : module.named_parameters()) {
    const auto same = [&](const at::Tensor& other) { return other.is_same(named.tensor); };
    if (named.tensor.requires_grad() && std::none_of(out.begin(), out.end(), same)) out.push_back(named.tensor);
  }
  return out;
}

// A line for each tensor: what must agree between the ranks for their buffers to match.
std::string describe(const Module& module) {
  std::string out;
  for (const NamedTensor& named : module.named_tensors())
    out += cat(named.name, " ", c10::toString(named.tensor.scalar_type()), " ", named.tensor.sizes(),
               named.tensor.requires_grad() ? " trained" : "", "\n");
  return out;
}

// Collective.
void check_same_module(const Module& module, comm::World& world) {
  const std::string mine = describe(module), root = world.broadcast_text(mine);
  world.together([&] {
    const auto at = std::mismatch(mine.begin(), mine.end(), root.begin(), root.end());
    if (at.first == mine.end() && at.second == root.end()) return;
    const auto line_at = [](const std::string& text, std::size_t position) {
      const std::size_t begin = position == 0 ? 0 : text.rfind('\n', position - 1) + 1;
      return text.substr(begin, text.find('\n', begin) - begin);
    };
    const auto position = static_cast<std::size_t>(at.first - mine.begin());
    fail(ErrorKind::Bug,
         {"the ranks built different models", cat("rank ", world.rank()),
          cat("it has \"", line_at(mine, position), "\" where rank 0 has \"", line_at(root, position), "\""), ""});
  });
}

// Gives all ranks rank 0's values. Collective. Through main memory: it happens once, and is the same for every device.
void broadcast_tensors(const Module& module, comm::World& world) {
  const at::NoGradGuard no_grad;
  for (const NamedTensor& named : module.named_tensors()) {
    at::Tensor values = named.tensor.detach().cpu().contiguous();
    world.broadcast({static_cast<std::byte*>(values.mutable_data_ptr()), values.nbytes()});
    if (!world.is_root() && !values.is_same(named.tensor) && values.data_ptr() != named.tensor.data_ptr())
      named.tensor.detach().copy_(values);
  }
}

// DistributedDataParallel's default. Over MPI a message of a megabyte is already at full speed, and a small model has
// to have several buckets if its gradients are to travel while backward goes on (tests/bench/ddp_speed.py).
constexpr std::int64_t kDeviceBucketBytes = std::int64_t{25} << 20, kHostBucketBytes = std::int64_t{1} << 20;

// Parameters in buckets, those that get their gradients first (the last ones) in front: as DistributedDataParallel.
std::vector<std::vector<std::size_t>> make_buckets(const std::vector<at::Tensor>& parameters,
                                                   bool find_unused_parameters, std::int64_t bytes) {
  std::vector<std::size_t> limits{static_cast<std::size_t>(bytes)};
  if (!find_unused_parameters) limits.insert(limits.begin(), static_cast<std::size_t>(c10d::kDefaultFirstBucketBytes));
  auto [buckets, sizes] = c10d::compute_bucket_assignment_by_size(parameters, limits);
  std::reverse(buckets.begin(), buckets.end());
  return buckets;
}

#ifdef DIVERGEN_HAVE_TORCH_CUDA
// The watchdog above NCCL comes first (comm/watchdog.cpp: a few seconds after the timeout), because it names the rank.
double nccl_timeout(double seconds) {
  constexpr double kLater = 30, kNever = 1e7;
  return seconds > 0 ? seconds + kLater : kNever;
}
#endif

std::vector<std::uint64_t> hashes_of(const std::vector<NamedTensor>& tensors) {
  std::vector<std::uint64_t> out;
  for (const NamedTensor& named : tensors) {
    const at::Tensor values = named.tensor.detach().cpu().contiguous();
    out.push_back(hash64({static_cast<const char*>(values.const_data_ptr()), values.nbytes()}));
  }
  return out;
}

// "rank 1 on node7, rank 4 on node8": those whose tensors are not those of most ranks. Collective.
std::string deviating_ranks(const std::vector<std::uint64_t>& hashes, comm::World& world) {
  const std::string fold =
      to_hex(hash128({reinterpret_cast<const char*>(hashes.data()), hashes.size() * sizeof(hashes[0])}));
  std::string text;
  for (const std::string& one : world.gather_texts(cat(fold, " rank ", world.rank(), " on ", world.host())))
    text += one + "\n";
  std::vector<std::string> lines = split(world.broadcast_text(text), '\n');
  std::erase(lines, "");
  const auto fold_of = [](const std::string& line) { return line.substr(0, line.find(' ')); };
  std::map<std::string, std::size_t> count;
  for (const std::string& line : lines) ++count[fold_of(line)];
  std::string most = fold_of(lines.front());
  for (const auto& [one, ranks] : count)
    if (2 * ranks > lines.size()) most = one;
  std::string out;
  for (const std::string& line : lines)
    if (fold_of(line) != most) out += (out.empty() ? "" : ", ") + line.substr(line.find(' ') + 1);
  return out;
}

/// What is done with a bucket of gradients when this rank has all of them: the same as the Reducer does by itself (1/n
/// of each, then their sum, to the same bits), and a look at them while they are still this rank's own.
class ReduceAndLook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  ReduceAndLook(const c10::intrusive_ptr<c10d::ProcessGroup>& group, at::Tensor bad)
      : CppCommHookInterface(group), bad_(std::move(bad)) {}

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    const at::NoGradGuard no_grad;
    at::Tensor& gradients = bucket.getBufferRef();
    const double share = 1.0 / state_->getSize();
    if (gradients.is_cpu() && gradients.scalar_type() == at::kFloat && gradients.is_contiguous()) {
      if (!scale_finite(gradients.mutable_data_ptr<float>(), static_cast<std::size_t>(gradients.numel()),
                        static_cast<float>(share)))
        bad_.add_(1);
    } else {
      const auto [least, most] = at::aminmax(gradients);  // NaN comes through
      bad_.add_(at::logical_and(at::isfinite(least), at::isfinite(most)).logical_not());
      gradients.mul_(share);
    }
    std::vector<at::Tensor> tensors{gradients};
    return state_->allreduce(tensors)->getFuture();
  }

 private:
  at::Tensor bad_;
};

}  // namespace

struct DataParallel::Engine {
  comm::World& world;
  int exceptions = std::uncaught_exceptions();
  c10::intrusive_ptr<c10d::Backend> backend;
  c10::intrusive_ptr<MpiBackend> mpi;  // the same, where it is that
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  std::unique_ptr<c10d::Reducer> reducer;
  bool on_device = false;
  std::optional<InCall> on_its_way;  // gradients that the device is still at
  at::Tensor bad_gradients;

  Engine(comm::World& world, const std::vector<NamedTensor>& named, const std::vector<at::Tensor>& parameters,
         const DataParallelOptions& options);
  ~Engine();
};

DataParallel::Engine::Engine(comm::World& world_, const std::vector<NamedTensor>& named,
                             const std::vector<at::Tensor>& parameters, const DataParallelOptions& options)
    : world(world_), group(c10::make_intrusive<c10d::ProcessGroup>(world_.rank(), world_.size())) {
  const at::Device device = parameters.front().device();
  if (device.is_cuda()) {
#ifdef DIVERGEN_HAVE_TORCH_CUDA
    on_device = true;
    backend = make_nccl_backend(world, device, nccl_timeout(options.timeout_seconds), options.dump_folder);
    group->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, backend);
    group->setDefaultBackend(c10d::ProcessGroup::BackendType::NCCL);
#else
    fail(ErrorKind::Config, {"training on GPUs is not possible", device.str(), "this divergen was built without CUDA",
                             "build it with a LibTorch that has CUDA, or set the device to cpu"});
#endif
  } else {
    mpi = c10::make_intrusive<MpiBackend>(world);
    backend = mpi;
    group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM, backend);
    group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  }

  const std::int64_t bucket_bytes = options.bucket_bytes > 0 ? options.bucket_bytes
                                    : on_device              ? kDeviceBucketBytes
                                                             : kHostBucketBytes;
  std::unordered_map<std::size_t, std::string> names;  // for the Reducer's messages
  for (std::size_t i = 0; i < parameters.size(); ++i)
    for (const NamedTensor& one : named)
      if (one.tensor.is_same(parameters[i])) names.emplace(i, one.name);
  reducer = std::make_unique<c10d::Reducer>(
      parameters, make_buckets(parameters, options.find_unused_parameters, bucket_bytes), group,
      std::vector<bool>(parameters.size(), false), bucket_bytes, options.find_unused_parameters,
      /*gradient_as_bucket_view=*/true, std::move(names),
      /*first_bucket_bytes_cap=*/c10d::kDefaultFirstBucketBytes, /*skip_all_reduce_unused_params=*/false,
      /*use_python_reducer=*/false, /*bucket_bytes_cap_list=*/std::vector<std::int64_t>{});
  bad_gradients = at::zeros({}, parameters.front().options().requires_grad(false));
  reducer->register_comm_hook(std::make_unique<ReduceAndLook>(group, bad_gradients));
}

DataParallel::Engine::~Engine() {
  if (std::uncaught_exceptions() > exceptions) return;  // the others may never come
  try {
    reducer.reset();
    // NCCL takes leave of the other ranks, and rank 0's store, which its watchdogs ask, stays until all have done so.
    backend->shutdown();
    world.barrier();
  } catch (const std::exception& error) {
    log::warn("the end of data-parallel training: ", error.what());
  }
}

DataParallel::DataParallel(Module& module, comm::World& world, const DataParallelOptions& options)
    : module_(module), world_(world) {
  if (world.size() == 1) return;
  check_same_module(module, world);
  broadcast_tensors(module, world);
  const std::vector<at::Tensor> parameters = trained_parameters(module);
  DIVERGEN_CHECK(!parameters.empty(), "no parameter is to be trained");
  engine_ = std::make_unique<Engine>(world, module.named_parameters(), parameters, options);
}

DataParallel::~DataParallel() = default;

void DataParallel::prepare_for_backward(const std::vector<at::Tensor>& losses) {
  if (!engine_) return;
  if (engine_->on_device) engine_->on_its_way.emplace(Lane::Gradients, Call::GradientsOnDevice);
  engine_->bad_gradients.zero_();
  engine_->reducer->prepare_for_backward(losses);
}

void DataParallel::finish_backward() {
  // The Reducer itself waits for the last bucket, in a callback at the end of backward; what is left is to see that it
  // did (a backward that ended early would leave gradients half averaged).
  if (!engine_) return;
  engine_->reducer->check_finalized();
  if (engine_->mpi) engine_->mpi->count_wait();
}

at::Tensor DataParallel::bad_local_gradients() const { return engine_ ? engine_->bad_gradients : at::Tensor(); }

std::optional<std::string> DataParallel::differing_tensor() const {
  if (!engine_) return std::nullopt;
  const std::vector<NamedTensor> tensors = module_.named_tensors();
  const std::vector<std::uint64_t> mine = hashes_of(tensors);
  std::vector<std::uint64_t> root = mine;
  world_.broadcast(std::as_writable_bytes(std::span(root)));
  const auto first = std::mismatch(mine.begin(), mine.end(), root.begin()).first - mine.begin();
  const std::int64_t least = -world_.max(-static_cast<std::int64_t>(first));
  if (least == static_cast<std::int64_t>(tensors.size())) return std::nullopt;
  return tensors[static_cast<std::size_t>(least)].name;
}

void DataParallel::check_replicas() const {
  const std::optional<std::string> name = differing_tensor();
  if (!name) return;
  const std::string ranks = deviating_ranks(hashes_of(module_.named_tensors()), world_);
  fail(ErrorKind::Bug, {"the replicas of the model have drifted apart", cat(*name, " of ", ranks),
                        world_.size() == 2 ? "its bits are not those of rank 0; either may be the faulty one"
                                           : "its bits are not those of the other ranks",
                        "leave the node out if this comes again, and go on from the last checkpoint"});
}

void DataParallel::device_is_done() {
  if (engine_) engine_->on_its_way.reset();
}

void DataParallel::set_timeout([[maybe_unused]] double seconds) {
#ifdef DIVERGEN_HAVE_TORCH_CUDA
  if (engine_ && engine_->on_device)
    engine_->backend->setTimeout(std::chrono::milliseconds(static_cast<std::int64_t>(1000 * nccl_timeout(seconds))));
#endif
}

void reduce_plain(Module& module, comm::World& world) {
  if (world.size() == 1) return;
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parameters = trained_parameters(module);
  std::vector<std::int64_t> users;  // ranks that have a gradient
  for (const at::Tensor& parameter : parameters) users.push_back(parameter.grad().defined() ? 1 : 0);
  world.sum(users);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (users[i] == 0) continue;
    at::Tensor& grad = parameters[i].mutable_grad();
    // Divided first, then summed, as the Reducer does it.
    at::Tensor mean =
        grad.defined() ? at::mul(grad, 1.0 / world.size()).contiguous() : at::zeros_like(parameters[i]).contiguous();
    const auto count = static_cast<std::size_t>(mean.numel());
    DIVERGEN_CHECK(mean.device().is_cpu() && (mean.scalar_type() == at::kFloat || mean.scalar_type() == at::kDouble));
    if (mean.scalar_type() == at::kFloat) {
      world.sum(std::span(mean.mutable_data_ptr<float>(), count));
    } else {
      world.sum(std::span(mean.mutable_data_ptr<double>(), count));
    }
    grad = mean;
  }
}

}  // namespace divergen::nn
