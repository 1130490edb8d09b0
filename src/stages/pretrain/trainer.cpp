#include "stages/pretrain/trainer.hpp"

#include <ATen/ATen.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <future>

#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "nn/adamw.hpp"
#include "nn/amp.hpp"
#include "nn/ema.hpp"
#include "nn/lr_schedule.hpp"
#include "nn/tensor_io.hpp"

namespace divergen::stages {
namespace {

using Clock = std::chrono::steady_clock;

/// All that a run must find again: weights, their average, moments, position.
class State {
 public:
  State(PretrainTask& task, const PretrainOptions& options)
      : module_(task.module()),
        ema_(module_, options.ema),
        optimizer_(module_.named_parameters(),
                   {.beta2 = options.beta2, .weight_decay = options.weight_decay, .clip_norm = options.clip_norm}) {}

  nn::AdamW& optimizer() { return optimizer_; }
  nn::Ema& ema() { return ema_; }

  void save(const Path& file, std::int64_t iteration, double seconds) const {
    nn::save_tensors(file, all(), {{"iteration", std::to_string(iteration)}, {"seconds", std::to_string(seconds)}});
  }

  void load(const Path& file) {
    at::NoGradGuard no_grad;
    const nn::TensorMap saved = nn::load_tensors(file);
    for (auto& [name, tensor] : all()) {
      const auto found = saved.find(name);
      if (found == saved.end() || found->second.sizes() != tensor.sizes())
        fail(ErrorKind::Data, {"the checkpoint does not fit the model", cat(file.string(), " [", name, "]"),
                               "it was made with another configuration", "use another --out folder"});
      at::Tensor target = tensor;
      target.copy_(found->second);
    }
  }

 private:
  std::vector<std::pair<std::string, at::Tensor>> all() const {
    std::vector<std::pair<std::string, at::Tensor>> out;
    for (const auto& entry : module_.named_tensors()) out.emplace_back("model." + entry.name, entry.tensor.detach());
    for (const auto& entry : ema_.tensors()) out.emplace_back("ema." + entry.name, entry.tensor);
    for (const auto& [name, tensor] : optimizer_.state()) out.emplace_back("optimizer." + name, tensor);
    return out;
  }

  nn::Module& module_;
  nn::Ema ema_;
  nn::AdamW optimizer_;
};

struct Position {
  std::int64_t iteration = 0;
  double seconds = 0;
};

Position read_position(const Path& file) {
  const weights::SafetensorsFile saved(file);
  const auto& metadata = saved.metadata();
  return {std::stoll(metadata.at("iteration")), std::stod(metadata.at("seconds"))};
}

/// Smoothed values of the loss terms, fetched from the device only when they are logged.
class Terms {
 public:
  void add(const std::map<std::string, at::Tensor>& terms) {
    for (const auto& [name, value] : terms) {
      auto& sum = sums_[name];
      sum = sum.defined() ? sum + value : value.clone();
    }
    ++count_;
  }
  std::map<std::string, double> take() {
    std::map<std::string, double> means;
    for (const auto& [name, sum] : sums_) means[name] = sum.item<double>() / static_cast<double>(count_);
    sums_.clear();
    count_ = 0;
    return means;
  }

 private:
  std::map<std::string, at::Tensor> sums_;
  std::int64_t count_ = 0;
};

void log_line(const Path& out, std::int64_t iteration, double lr, double seconds,
              const std::map<std::string, double>& means) {
  nlohmann::json line{{"iteration", iteration}, {"lr", lr}, {"seconds", seconds}};
  std::string text = cat("iteration ", iteration);
  for (const auto& [name, value] : means) {
    line[name] = value;
    char number[32];
    std::snprintf(number, sizeof number, "%.4g", value);
    text += cat("  ", name, " ", number);
  }
  append_line(out / "log.jsonl", line.dump());
  log::info(text);
}

void check_finite(const std::map<std::string, double>& means, std::int64_t iteration) {
  for (const auto& [name, value] : means)
    if (!std::isfinite(value))
      fail(ErrorKind::Data, {"pretraining has diverged", cat("loss term '", name, "' near iteration ", iteration),
                             "it is not a finite number", "lower the learning rate and start again in a new folder"});
}

}  // namespace

PretrainResult pretrain(PretrainTask& task, const PretrainOptions& options, const std::function<bool()>& stop) {
  make_folder(options.out);
  sweep_parts(options.out);
  task.initialise(options.seed);
  task.module().requires_grad(true);
  task.module().train();
  State state(task, options);
  const Path file = options.out / "state.safetensors";
  Position position;
  if (std::filesystem::exists(file)) {
    state.load(file);
    position = read_position(file);
    log::info("continues at iteration ", position.iteration, " from ", file.string());
  }
  log::info(task.module().count_parameters(), " parameters, ", options.iterations, " iterations of ", options.batch);

  const nn::WarmupCosine schedule{options.lr, options.iterations, options.warmup, 1e-3};
  const auto batch_of = [&](std::int64_t i) {
    return task.make_batch(Rng(derive_seed(options.seed, "batch", {static_cast<std::uint64_t>(i)})), options.batch);
  };
  const at::ScalarType precision = nn::precision_type(options.precision);
  const auto loss_of = [&](const std::any& batch, std::int64_t i, std::map<std::string, at::Tensor>& now) {
    const nn::Autocast half(c10::DeviceType::CPU, precision);
    return task.loss(batch, derive_seed(options.seed, "step", {static_cast<std::uint64_t>(i)}), now);
  };
  const auto with_average = [&](const std::function<void()>& action) {
    state.ema().swap_with(task.module());
    task.module().eval();
    {
      at::NoGradGuard no_grad;
      action();
    }
    task.module().train();
    state.ema().swap_with(task.module());
  };

  Terms terms;
  std::map<std::string, double> last;
  const auto start = Clock::now();
  const double seconds_before = position.seconds;
  const auto elapsed = [&] { return seconds_before + std::chrono::duration<double>(Clock::now() - start).count(); };
  std::future<std::any> next = std::async(std::launch::async, batch_of, position.iteration);
  std::int64_t i = position.iteration;
  while (i < options.iterations) {
    const std::any batch = next.get();
    if (i + 1 < options.iterations) next = std::async(std::launch::async, batch_of, i + 1);
    std::map<std::string, at::Tensor> now;
    state.optimizer().zero_grad();
    const at::Tensor loss = loss_of(batch, i, now);
    loss.backward();
    now["loss"] = loss.detach();
    const double lr = schedule.at(i);
    state.optimizer().step(lr);
    // A short memory at the start, so that the average does not carry the random initial values for long.
    state.ema().update(task.module(),
                       std::min(options.ema, (1.0 + static_cast<double>(i)) / (10.0 + static_cast<double>(i))));
    terms.add(now);
    ++i;
    if (i % options.log_every == 0 || i == options.iterations) {
      last = terms.take();
      check_finite(last, i);
      log_line(options.out, i, lr, elapsed(), last);
    }
    const bool stopping = stop();
    if (i % options.save_every == 0 || i == options.iterations || stopping) state.save(file, i, elapsed());
    if (i % options.sample_every == 0 || i == options.iterations) with_average([&] { task.sample(options.out, i); });
    if (stopping) break;
  }
  if (next.valid()) next.wait();
  with_average([&] { task.write(options.out / "model"); });
  return {i, elapsed(), last};
}

}  // namespace divergen::stages
