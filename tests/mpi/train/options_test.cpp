// What a training may be asked for beside its recipe, each against the plain one: gradient accumulation, activation
// checkpointing, mixed precision, checkpoints that stay, checkpoints written while training goes on.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/fault.hpp"
#include "base/text.hpp"
#include "models/detector/centernet2.hpp"
#include "mpi/train/small_world.hpp"
#include "nn/tensor_io.hpp"
#include "stages/train/checkpoint.hpp"
#include "stages/train/detector_task.hpp"
#include "stages/train/train.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;
using test::SmallWorld;
using test::world;

/// A run folder for the engine alone; one for all ranks.
class Folder {
 public:
  Folder() {
    static int number = 0;
    const Path mine = std::filesystem::temp_directory_path() / cat("divergen-options-", ::getpid(), "-", number++);
    path = world().broadcast_text(mine.string());
  }
  ~Folder() {
    world().barrier();
    std::error_code ignored;
    if (world().is_root()) std::filesystem::remove_all(path, ignored);
  }
  Path path;
};

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>() / std::max(b.abs().max().item<double>(), 1e-30);
}

// ---- accumulation --------------------------------------------------------------------------------------------------

constexpr std::int64_t kBatch = 24;          // of the small network: 1, 2 and 3 ranks in 1, 2 and 4 parts
constexpr std::int64_t kDetectorBatch = 12;  // 1, 2 and 3 ranks in 1 and 2 parts

struct Net : nn::Module {
  Net() {
    parameter("first", first, {8, 16});
    parameter("second", second, {16, 4});
    parameter("early", early, {4});
  }
  at::Tensor first, second, early;  // `early`: used by the first part of each rank alone
};

at::Tensor samples() {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(4);
  return at::randn({kBatch, 8}, generator);
}

/// Sum of the losses of some rows of the batch, and of those that are in first parts.
at::Tensor loss_of(const Net& net, const at::Tensor& x, bool with_early) {
  const at::Tensor y = at::matmul(at::tanh(at::matmul(x, net.first)), net.second);
  return (with_early ? y + net.early : y).square().sum(1);
}

void fill(Net& net) {
  at::NoGradGuard no_grad;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(9);
  for (at::Tensor* each : {&net.first, &net.second, &net.early}) each->normal_(0, 0.5, generator);
}

class NetTask : public TrainingTask {
 public:
  nn::Module& module() override { return net; }
  void initialise() override { fill(net); }
  void seek(std::int64_t) override {}
  std::map<std::string, at::Tensor> losses(std::int64_t iteration) override { return part_losses(iteration, 0, 1); }
  std::map<std::string, at::Tensor> part_losses(std::int64_t, std::int64_t part, std::int64_t parts) override {
    calls.push_back(part);
    const at::Tensor x = samples().slice(0, part * world().size() + world().rank(), kBatch, parts * world().size());
    return {{"loss", loss_of(net, x, part == 0).mean()}};
  }
  double waited_seconds() const override { return 0; }

  Net net;
  std::vector<std::int64_t> calls;
};

TrainingOptions net_options(const Path& folder) {
  config::TrainSettings s;
  s.name = "net";
  s.iterations = 1;
  s.batch = kBatch;
  s.clip_value = 0;
  s.warmup = 0;
  s.checkpoint_every = 1000;
  s.log_every = 1;
  return {s, folder, "fingerprint", "config"};
}

}  // namespace

TEST(Accumulation, GivesTheGradientsOfTheWholeBatch) {
  for (const std::int64_t parts : {1, 2, 4}) {
    Folder folder;
    NetTask task;
    auto options = net_options(folder.path);
    options.settings.accumulate = parts;
    TrainingEngine engine(task, world(), options);

    engine.run([] { return false; });

    Net whole;
    fill(whole);
    whole.requires_grad(true);
    const at::Tensor x = samples();
    const std::int64_t shares = parts * world().size(), first = world().size();
    at::Tensor sum = at::zeros({});
    for (std::int64_t share = 0; share < shares; ++share)
      sum = sum + loss_of(whole, x.slice(0, share, kBatch, shares), share < first).sum();
    (sum / kBatch).backward();
    EXPECT_EQ(task.calls.size(), static_cast<std::size_t>(parts));
    for (const auto& [mine, expected] :
         {std::pair{task.net.first, whole.first}, std::pair{task.net.second, whole.second},
          std::pair{task.net.early, whole.early}}) {
      ASSERT_TRUE(mine.grad().defined());
      EXPECT_LT(relative_difference(mine.grad(), expected.grad()), 1e-6) << parts << " parts";
    }
    const json line = json::parse(split(read_file(folder.path / "log.jsonl"), '\n').front());
    EXPECT_NEAR(line.at("loss").get<double>(), sum.item<double>() / kBatch, 1e-5 * sum.item<double>() / kBatch);
    world().barrier();
  }
}

TEST(Accumulation, RefusesPartsThatDoNotDivideTheBatch) {
  Folder folder;
  NetTask task;
  auto options = net_options(folder.path);
  options.settings.accumulate = 5;

  EXPECT_THROW(TrainingEngine(task, world(), options), Error);
}

// The detector in two parts a rank: the gradients of twice as many ranks, each computed here from the samples, draws
// and normalisers that the rank would have.
TEST(Accumulation, OfTheDetectorIsTwiceAsManyRanks) {
  SmallWorld small;
  auto& settings = small.training;
  settings.iterations = 1;
  settings.batch = kDetectorBatch;
  settings.accumulate = 2;
  settings.clip_value = 0;
  settings.log_every = 1;
  small.config.augment.aspect_grouping = false;
  const lvis::Dataset dataset = lvis::read_dataset(small.config.data.train_json);
  const ClassMap classes = read_class_map(small.config.data.categories);
  const SampleMaker maker(dataset, small.config.data.train_images, classes, {}, small.config.augment, nullptr,
                          settings.seed, self_copy_of(settings));
  DetectorTask task(small.config, settings, classes.image_counts, maker, world(), at::kCPU);
  const Folder folder;
  TrainingEngine engine(task, world(), {settings, folder.path, "fingerprint", "config"});

  engine.run([] { return false; });

  auto plain = settings;
  plain.accumulate = 1;
  DetectorTask twin_task(small.config, plain, classes.image_counts, maker, world(), at::kCPU);
  twin_task.initialise();
  twin_task.module().requires_grad(true);
  auto& twin = dynamic_cast<models::CenterNet2&>(twin_task.module());
  const std::int64_t shares = 2 * world().size();
  const auto batch_of = [&](std::int64_t share) {
    std::vector<models::DetectorSample> out;
    for (std::int64_t i = share; i < kDetectorBatch; i += shares)
      out.push_back(to_detector_sample(maker.make(static_cast<std::uint64_t>(i))));
    return out;
  };
  const auto losses_of = [&](std::int64_t share, const models::MeanOverRanks& mean) {
    at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(
        derive_seed(settings.seed, "step", {0, static_cast<std::uint64_t>(share)}));
    return twin.losses(batch_of(share), generator, mean);
  };
  at::Tensor counts = at::zeros({2});
  for (std::int64_t share = 0; share < shares; ++share) losses_of(share, [&](at::Tensor& mine) { counts += mine; });
  std::map<std::string, double> terms;
  for (std::int64_t share = 0; share < shares; ++share) {
    at::Tensor total = at::zeros({});
    for (const auto& [name, term] :
         losses_of(share, [&](at::Tensor& mine) { mine.copy_(counts / static_cast<double>(shares)); })) {
      total = total + term;
      terms[name] += term.item<double>() / static_cast<double>(shares);
    }
    (total / static_cast<double>(shares)).backward();
  }

  const auto mine = task.module().named_parameters(), expected = twin.named_parameters();
  double largest = 0;
  for (const auto& p : expected)
    if (p.tensor.grad().defined()) largest = std::max(largest, p.tensor.grad().abs().max().item<double>());
  for (std::size_t i = 0; i < mine.size(); ++i) {
    ASSERT_EQ(mine[i].tensor.grad().defined(), expected[i].tensor.grad().defined()) << mine[i].name;
    if (!mine[i].tensor.grad().defined()) continue;
    const double off = (mine[i].tensor.grad() - expected[i].tensor.grad()).abs().max().item<double>();
    EXPECT_LT(off, 1e-6 * largest) << mine[i].name;
  }
  const json line = json::parse(split(read_file(folder.path / "log.jsonl"), '\n').front());
  for (const auto& [name, value] : terms)
    EXPECT_NEAR(line.at(name).get<double>(), value, 1e-5 * std::max(std::abs(value), 1e-3)) << name;
}

// What CenterNet normalises by is counted over the whole batch: its losses do not depend on how the batch is cut.
TEST(Accumulation, KeepsTheGlobalNormalisers) {
  SmallWorld small;
  small.training.batch = kDetectorBatch;
  small.training.iterations = 1;
  small.training.log_every = 1;
  small.config.augment.aspect_grouping = false;
  std::vector<json> lines;
  for (const std::int64_t parts : {1, 2}) {
    const RunContext run = small.run(cat("parts-", parts));
    small.training.accumulate = parts;
    run_train(run, small.training);
    lines.push_back(json::parse(split(read_file(run.dir.training("small") / "log.jsonl"), '\n').front()));
  }
  for (const char* name : {"loss_centernet_loc", "loss_centernet_agn_pos", "loss_centernet_agn_neg"})
    for (const json& line : lines)
      EXPECT_NEAR(line.at(name).get<double>(), lines[0].at(name).get<double>(), 1e-5 * lines[0].at(name).get<double>())
          << name;
}

// ---- precision and memory ------------------------------------------------------------------------------------------

namespace {

std::vector<json> timeless_log(const Path& folder) {
  std::vector<json> out;
  for (const std::string& line : split(read_file(folder / "log.jsonl"), '\n')) {
    if (line.empty()) continue;
    out.push_back(json::parse(line));
    for (const char* key : {"seconds", "data_wait", "images_per_second", "memory_mb"}) out.back().erase(key);
  }
  return out;
}

void train_with_interruptions(RunContext run, const config::TrainSettings& training, std::vector<int> steps) {
  for (const int most : steps) {
    run.stop_requested = [most, asked = std::make_shared<int>(0)] { return ++*asked == most; };
    EXPECT_THROW(run_train(run, training), Error);
  }
  run.stop_requested = [] { return false; };
  run_train(run, training);
}

void make_swin(config::DetectorSettings& d) {
  d.backbone = "swin";
  d.depths = {1, 1, 2, 1};
  d.swin_width = 16;
  d.swin_heads = {1, 2, 4, 8};
  d.swin_window = 4;
  d.swin_mlp_ratio = 2;
  d.drop_path = 0.3;
}

}  // namespace

// oneDNN reads this at its first use. Its convolutions for AVX-512 in LibTorch 2.11 now and then give gradients that
// are no numbers in bfloat16 with as few channels as this network has (different ones for the same input); those for
// AVX2 never did.
[[maybe_unused]] const int kSteadyConvolutions = ::setenv("ONEDNN_MAX_CPU_ISA", "AVX2", /*overwrite=*/0);

class Precision : public testing::TestWithParam<const char*> {};

TEST_P(Precision, ResumesToTheBit) {
  SmallWorld small;
  small.training.precision = GetParam();
  const RunContext straight = small.run("straight"), interrupted = small.run("interrupted");

  run_train(straight, small.training);
  train_with_interruptions(interrupted, small.training, {3, 4});

  const Path a = straight.dir.training("small"), b = interrupted.dir.training("small");
  for (const char* file :
       {"model.safetensors", "last.safetensors", "checkpoints/iter-00000012/model.safetensors",
        "checkpoints/iter-00000012/ema.safetensors", "checkpoints/iter-00000012/optimizer.safetensors"})
    EXPECT_TRUE(read_file(a / file) == read_file(b / file)) << file;
  EXPECT_EQ(timeless_log(a), timeless_log(b));
  for (const json& line : timeless_log(a)) EXPECT_TRUE(std::isfinite(line.at("loss_total").get<double>()));
  const nn::TensorMap state = nn::load_tensors(a / "checkpoints/iter-00000012/optimizer.safetensors");
  EXPECT_EQ(state.contains("grad_scaler.scale"), std::string(GetParam()) == "fp16");
  EXPECT_EQ(state.contains("grad_scaler.good_steps"), std::string(GetParam()) == "fp16");
  if (const auto good = state.find("grad_scaler.good_steps"); good != state.end()) {
    EXPECT_GT(good->second.item<int>(), 0);  // it found a scale that the gradients bear
  }
}
INSTANTIATE_TEST_SUITE_P(Half, Precision, testing::Values("fp16", "bf16"));

TEST(ActivationCheckpointing, GivesTheSameBits) {
  SmallWorld small;
  make_swin(small.config.detector);
  small.training.iterations = 4;
  const RunContext plain = small.run("plain"), thrifty = small.run("thrifty");

  run_train(plain, small.training);
  small.training.activation_checkpointing = true;
  run_train(thrifty, small.training);

  const auto weights = [](const RunContext& run) {
    return nn::load_tensors(run.dir.training("small") / "last.safetensors");
  };
  const nn::TensorMap expected = weights(plain), got = weights(thrifty);
  ASSERT_EQ(expected.size(), got.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(at::equal(tensor, got.at(name))) << name;
  EXPECT_EQ(timeless_log(plain.dir.training("small")), timeless_log(thrifty.dir.training("small")));
}

// ---- checkpoints ---------------------------------------------------------------------------------------------------

namespace {

std::vector<std::int64_t> kept(const Path& folder) {
  std::vector<std::int64_t> out;
  for (const auto& entry : list_checkpoints(folder / "checkpoints")) out.push_back(entry.iteration);
  return out;
}

/// Takes its time, as a step of a large network does.
class SlowTask : public NetTask {
 public:
  std::function<void(std::int64_t)> before_step = [](std::int64_t) {};
  std::map<std::string, at::Tensor> losses(std::int64_t iteration) override {
    before_step(iteration);
    return NetTask::losses(iteration);
  }
};

}  // namespace

TEST(Checkpoints, NewestStayAndThoseOfEveryNSteps) {
  const Folder folder;
  auto options = net_options(folder.path);
  options.settings.iterations = 24;
  options.settings.checkpoint_every = 2;
  options.settings.keep_checkpoints = 3;
  options.settings.keep_every = 6;
  NetTask task;
  TrainingEngine engine(task, world(), options);

  engine.run([] { return false; });

  EXPECT_EQ(kept(folder.path), (std::vector<std::int64_t>{24, 22, 20, 18, 12, 6}));
  for (const auto& entry : list_checkpoints(folder.path / "checkpoints")) EXPECT_FALSE(verify_checkpoint(entry.path));
}

TEST(Checkpoints, OldOnesStayUntilANewOneIsWhole) {
  const Folder folder;
  auto options = net_options(folder.path);
  options.settings.iterations = 12;
  options.settings.checkpoint_every = 2;
  options.settings.keep_checkpoints = 2;
  options.settings.keep_every = 0;
  NetTask task;
  TrainingEngine engine(task, world(), options);
  if (world().is_root()) fault::arm("checkpoint.begin", fault::Action::Fail, 4);

  EXPECT_THROW(engine.run([] { return false; }), Error);

  fault::disarm();
  world().barrier();
  EXPECT_EQ(kept(folder.path), (std::vector<std::int64_t>{6, 4}));
  NetTask again;
  TrainingEngine next(again, world(), options);
  EXPECT_EQ(next.run([] { return false; }).steps, 6);
  EXPECT_EQ(kept(folder.path), (std::vector<std::int64_t>{12, 10}));
}

TEST(Checkpoints, TrainingGoesOnWhileOneIsWritten) {
  const Folder folder;
  auto options = net_options(folder.path);
  options.settings.iterations = 40;
  options.settings.checkpoint_every = 20;
  SlowTask task;
  std::vector<std::int64_t> unwritten;  // steps begun while the checkpoint of step 20 was not there
  task.before_step = [&](std::int64_t iteration) {
    if (iteration > 20 && iteration < 38 && kept(folder.path).empty()) unwritten.push_back(iteration);
    if (iteration == 38) fault::disarm();  // the disk is back
  };
  TrainingEngine engine(task, world(), options);
  if (world().is_root()) fault::arm("checkpoint.begin", fault::Action::Pause, 1);

  engine.run([] { return false; });

  fault::disarm();
  EXPECT_EQ(unwritten.size(), 17u);  // steps 21 to 37
  EXPECT_EQ(kept(folder.path), (std::vector<std::int64_t>{40, 20}));
  world().barrier();
}

}  // namespace divergen::stages

DIVERGEN_MPI_MAIN()
