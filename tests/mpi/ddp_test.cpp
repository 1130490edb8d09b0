// Data-parallel gradients: equal to the plain twin to the last bit, equal to those of the joined batch within rounding,
// the same from run to run, with parameters that some ranks or all leave unused.

#include "nn/ddp.hpp"

#include <ATen/ATen.h>

#include <thread>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "mpi/mpi_main.hpp"
#include "nn/mpi_backend.hpp"
#ifdef DIVERGEN_HAVE_TORCH_CUDA
#include <c10/cuda/CUDAFunctions.h>

#include "nn/nccl_backend.hpp"
#endif

namespace divergen::nn {
namespace {

using test::world;

at::Tensor noise(std::uint64_t seed, at::IntArrayRef sizes) {
  Rng rng(seed);
  at::Tensor out = at::empty(sizes);
  float* at = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) at[i] = static_cast<float>(rng.normal());
  return out;
}

// Two branches behind a common layer; a branch may be left out of the loss. Wide enough for several buckets of 64 KiB.
class Branches : public Module {
 public:
  explicit Branches(std::uint64_t seed) {
    parameter("common", common_, {96, 64});
    parameter("left", left_, {96, 160});
    parameter("right", right_, {96, 160});
    parameter("never", never_, {5});
    parameter("frozen", frozen_, {160});
    buffer("count", count_, {3});
    std::uint64_t i = 0;
    for (const auto& [name, tensor] : named_slots())
      tensor->copy_(noise(derive_seed(seed, name, {i++}), tensor->sizes()) * 0.1);
    requires_grad(true);
    frozen_.requires_grad_(false);
  }
  // Mean over the items of x (n, 64).
  at::Tensor loss(const at::Tensor& x, bool left, bool right) const {
    const at::Tensor h = at::tanh(at::matmul(x, common_.t()));
    at::Tensor total = h.square().mean();
    if (left) total = total + (at::tanh(at::matmul(h, left_)) - frozen_).square().mean();
    if (right) total = total + at::matmul(h, right_).sigmoid().mean();
    return total;
  }
  std::vector<at::Tensor> gradients() const {
    return {common_.grad(), left_.grad(), right_.grad(), never_.grad(), frozen_.grad()};
  }
  void clear() {
    for (auto& slot : named_slots()) slot.second->mutable_grad().reset();
  }

 private:
  at::Tensor common_, left_, right_, never_, frozen_, count_;
};

constexpr std::int64_t kItems = 8;  // of each rank
at::Tensor batch_of(int rank, std::uint64_t step) {
  return noise(derive_seed(5, "batch", {static_cast<std::uint64_t>(rank), step}), {kItems, 64});
}

void expect_same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].defined(), b[i].defined()) << "gradient " << i;
    if (!a[i].defined()) continue;
    EXPECT_TRUE(at::equal(a[i], b[i])) << "gradient " << i;
  }
}

std::vector<at::Tensor> copies(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> out;
  for (const at::Tensor& t : tensors) out.push_back(t.defined() ? t.clone() : t);
  return out;
}

// Which branches rank `rank` of `size` uses in a step: all patterns of one, several or no rank come up.
struct Use {
  bool left, right;
};
Use use_of(int rank, int step) {
  switch (step % 4) {
    case 0:
      return {true, true};
    case 1:
      return {true, rank == 0};
    case 2:
      return {rank != 0, false};
    default:
      return {false, false};
  }
}

DataParallelOptions small_buckets() {
  DataParallelOptions options;
  options.bucket_bytes = 64 << 10;
  return options;
}

TEST(DataParallel, StartsFromRankZerosTensors) {
  Branches module(static_cast<std::uint64_t>(world().rank()) + 1);
  const Branches root(1);
  DataParallel replicas(module, world(), {});
  const auto mine = module.named_tensors(), expected = root.named_tensors();
  for (std::size_t i = 0; i < mine.size(); ++i)
    EXPECT_TRUE(at::equal(mine[i].tensor, expected[i].tensor)) << mine[i].name;
  EXPECT_EQ(replicas.differing_tensor(), std::nullopt);
}

TEST(DataParallel, EqualsThePlainTwinToTheLastBit) {
  Branches module(1), twin(1);
  DataParallel replicas(module, world(), small_buckets());
  for (int step = 0; step < 8; ++step) {
    const auto [left, right] = use_of(world().rank(), step);
    const at::Tensor x = batch_of(world().rank(), static_cast<std::uint64_t>(step));
    module.clear();
    twin.clear();
    const at::Tensor loss = module.loss(x, left, right);
    replicas.prepare_for_backward({loss});
    loss.backward();
    replicas.finish_backward();
    twin.loss(x, left, right).backward();
    reduce_plain(twin, world());
    expect_same(module.gradients(), twin.gradients());

    bool left_anywhere = false, right_anywhere = false;
    for (int r = 0; r < world().size(); ++r) {
      left_anywhere |= use_of(r, step).left;
      right_anywhere |= use_of(r, step).right;
    }
    const auto gradients = module.gradients();
    EXPECT_TRUE(gradients[0].defined());
    EXPECT_EQ(gradients[1].defined(), left_anywhere) << "step " << step;
    EXPECT_EQ(gradients[2].defined(), right_anywhere) << "step " << step;
    EXPECT_FALSE(gradients[3].defined());  // used by nobody
    EXPECT_FALSE(gradients[4].defined());  // not trained
  }
}

TEST(DataParallel, EqualsTheJoinedBatchOnOneRank) {
  Branches module(1), alone(1);
  DataParallel replicas(module, world(), small_buckets());
  const at::Tensor loss = module.loss(batch_of(world().rank(), 0), true, true);
  replicas.prepare_for_backward({loss});
  loss.backward();
  replicas.finish_backward();

  std::vector<at::Tensor> all;
  for (int r = 0; r < world().size(); ++r) all.push_back(batch_of(r, 0));
  alone.loss(at::cat(all), true, true).backward();
  for (int i = 0; i < 3; ++i) {
    const at::Tensor expected = alone.gradients()[static_cast<std::size_t>(i)],
                     got = module.gradients()[static_cast<std::size_t>(i)];
    const double off = (got - expected).abs().max().item<double>(), size = expected.abs().max().item<double>();
    EXPECT_LT(off, 2e-6 * size) << "gradient " << i;
    EXPECT_GT(size, 0);
  }
}

TEST(DataParallel, GradientsAreTheSameFromRunToRun) {
  std::vector<at::Tensor> first;
  for (int run = 0; run < 3; ++run) {
    Branches module(1);
    // Buckets of another size must not matter either.
    DataParallelOptions options = small_buckets();
    if (run == 2) options.bucket_bytes = 1 << 20;
    DataParallel replicas(module, world(), options);
    const at::Tensor loss = module.loss(batch_of(world().rank(), 3), true, world().is_root());
    // Ranks come at different times in each run.
    std::this_thread::sleep_for(std::chrono::milliseconds(20 * ((world().rank() + run) % world().size())));
    replicas.prepare_for_backward({loss});
    loss.backward();
    replicas.finish_backward();
    if (run == 0) first = copies(module.gradients());
    expect_same(first, module.gradients());
  }
}

TEST(DataParallel, WithoutSearchForUnusedParameters) {
  Branches module(1), twin(1);
  for (Branches* each : {&module, &twin})
    for (auto& [name, slot] : each->named_slots())
      if (name == "never") slot->requires_grad_(false);
  DataParallelOptions options = small_buckets();
  options.find_unused_parameters = false;
  DataParallel replicas(module, world(), options);
  for (std::uint64_t step = 0; step < 3; ++step) {
    module.clear();
    twin.clear();
    const at::Tensor x = batch_of(world().rank(), step), loss = module.loss(x, true, true);
    replicas.prepare_for_backward({loss});
    loss.backward();
    replicas.finish_backward();
    twin.loss(x, true, true).backward();
    reduce_plain(twin, world());
    expect_same(module.gradients(), twin.gradients());
  }
}

TEST(DataParallel, AccumulatesLocallyBeforeThePreparedBackward) {
  Branches module(1), twin(1);
  DataParallel replicas(module, world(), small_buckets());
  for (int part = 0; part < 2; ++part) {
    const at::Tensor x = batch_of(world().rank(), static_cast<std::uint64_t>(part));
    const at::Tensor loss = module.loss(x, true, true);
    if (part == 1) replicas.prepare_for_backward({loss});
    loss.backward();
    twin.loss(x, true, true).backward();
  }
  replicas.finish_backward();
  reduce_plain(twin, world());
  expect_same(module.gradients(), twin.gradients());
}

TEST(DataParallel, ReplicasStayBitEqualOverSteps) {
  Branches module(static_cast<std::uint64_t>(world().rank()) + 1);
  DataParallel replicas(module, world(), small_buckets());
  for (int step = 0; step < 12; ++step) {
    module.clear();
    const auto [left, right] = use_of(world().rank(), step);
    const at::Tensor loss = module.loss(batch_of(world().rank(), static_cast<std::uint64_t>(step)), left, right);
    replicas.prepare_for_backward({loss});
    loss.backward();
    replicas.finish_backward();
    const at::NoGradGuard no_grad;
    for (auto& [name, slot] : module.named_slots())
      if (slot->grad().defined()) slot->sub_(slot->grad() * 0.1);
  }
  EXPECT_EQ(replicas.differing_tensor(), std::nullopt);
  replicas.check_replicas();

  if (world().size() == 1) return;
  // A single bit on the last rank is found and named, on all ranks.
  const at::NoGradGuard no_grad;
  if (world().rank() == world().size() - 1)
    for (auto& [name, slot] : module.named_slots())
      if (name == "right") {
        auto* bits = reinterpret_cast<std::uint32_t*>(slot->mutable_data_ptr<float>());
        bits[77] ^= 1u;
      }
  EXPECT_EQ(replicas.differing_tensor(), std::optional<std::string>("right"));
  EXPECT_THROW(replicas.check_replicas(), Error);
}

class OneTensor : public Module {
 public:
  explicit OneTensor(std::int64_t size) {
    parameter("weight", weight_, {size});
    weight_.zero_();
    requires_grad(true);
  }
  at::Tensor weight_;
};

TEST(DataParallel, RefusesDifferentModels) {
  if (world().size() == 1) return;
  OneTensor module(world().rank() == world().size() - 1 ? 4 : 3);
  EXPECT_THROW(DataParallel(module, world(), {}), Error);
}

TEST(MpiBackend, CollectivesOfTensors) {
  MpiBackend backend(world());
  const int n = world().size(), me = world().rank();
  std::vector<at::Tensor> tensors{at::full({1000}, static_cast<double>(me + 1), at::kFloat)};
  c10d::AllreduceOptions options;
  options.reduceOp = c10d::ReduceOp::AVG;
  const auto average = backend.allreduce(tensors, options);
  std::vector<at::Tensor> counts{at::full({7}, me, at::kInt)};
  const auto total = backend.allreduce(counts, c10d::AllreduceOptions());  // queued behind the first
  total->wait();
  EXPECT_TRUE(average->isCompleted());
  EXPECT_TRUE(average->getFuture()->completed());
  EXPECT_TRUE(at::equal(tensors[0], at::full({1000}, (n + 1) / 2.0, at::kFloat)));
  EXPECT_TRUE(at::equal(counts[0], at::full({7}, n * (n - 1) / 2, at::kInt)));

  c10d::BroadcastOptions from_last;
  from_last.rootRank = n - 1;
  std::vector<at::Tensor> sent{at::full({2, 3}, me, at::kLong)};
  backend.broadcast(sent, from_last)->wait();
  EXPECT_TRUE(at::equal(sent[0], at::full({2, 3}, n - 1, at::kLong)));

  std::vector<at::Tensor> inputs{at::full({2, 2}, me, at::kBFloat16)};
  std::vector<std::vector<at::Tensor>> outputs(1);
  for (int r = 0; r < n; ++r) outputs[0].push_back(at::empty({2, 2}, at::kBFloat16));
  backend.allgather(outputs, inputs, {})->wait();
  for (int r = 0; r < n; ++r)
    EXPECT_TRUE(at::equal(outputs[0][static_cast<std::size_t>(r)], at::full({2, 2}, r, at::kBFloat16)));
  backend.barrier({})->wait();

  std::vector<at::Tensor> halves{at::ones({3}, at::kHalf)};  // a failure comes out of wait()
  EXPECT_THROW(backend.allreduce(halves, c10d::AllreduceOptions())->wait(), Error);
}

#ifdef DIVERGEN_HAVE_TORCH_CUDA
TEST(NcclBackend, SumsOnGpusOrSaysWhatIsMissing) {
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(world().local_rank()));
  if (world().any(c10::cuda::device_count() <= world().local_rank())) {
    try {
      make_nccl_backend(world(), device, 60, {});
      FAIL() << "there is no GPU for every rank";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Config);
    }
    return;
  }
  const auto backend = make_nccl_backend(world(), device, 60, {});
  std::vector<at::Tensor> tensors{at::full({1000}, world().rank() + 1.0, at::TensorOptions(device))};
  backend->allreduce(tensors, c10d::AllreduceOptions())->wait();
  const int n = world().size();
  EXPECT_TRUE(at::equal(tensors[0].cpu(), at::full({1000}, n * (n + 1) / 2.0, at::kFloat)));
  backend->shutdown();
  world().barrier();
}
#endif

}  // namespace
}  // namespace divergen::nn

DIVERGEN_MPI_MAIN()
