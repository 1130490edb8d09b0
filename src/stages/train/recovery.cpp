// Where a training starts, what it leaves on disk, and its way back from a bad step.

#include <ATen/ATen.h>
#include <torch/headeronly/version.h>

#include "base/log.hpp"
#include "base/rank_record.hpp"
#include "base/time_use.hpp"
#include "stages/train/engine_state.hpp"

namespace divergen::stages {
namespace {

// reference/reliability.md §5: after so many returns to a good checkpoint the fault is not a passing one.
constexpr std::int64_t kMostRollbacks = 3;

nn::AdamWOptions optimizer_options(const config::TrainSettings& settings) {
  nn::AdamWOptions out;
  out.weight_decay = settings.weight_decay;
  if (settings.clip_value > 0) out.clip_value = settings.clip_value;
  if (settings.backbone_lr != 1)
    out.lr_factor = [factor = settings.backbone_lr](const std::string& name) {
      return name.starts_with("backbone.bottom_up.") ? factor : 1.0;
    };
  return out;
}

}  // namespace

/// Initial values everywhere: weights, moments, averages (a copy of the weights; semantics.md §8.4 starts from random
/// ones, because the reference makes the copy before it loads the backbone's weights).
void TrainingEngine::State::fresh() {
  at::NoGradGuard no_grad;
  nn::Module& module = task.module();
  task.initialise();
  module.requires_grad(true);
  module.train();
  if (!optimizer) optimizer.emplace(module.named_parameters(), optimizer_options(settings()));
  for (const auto& [name, tensor] : optimizer->state()) at::Tensor(tensor).zero_();
  if (settings().ema > 0) ema.emplace(module, settings().ema);
  if (settings().precision == "fp16") scaler.emplace();
  iteration = 0;
  first_shares = shares();
  saved_iteration = -1;
  seconds_before = 0;
  window = {};
}

/// What follows a change of position: the stream of samples, the log, the clocks.
void TrainingEngine::State::restore() {
  task.keep_batches_of(first_shares);
  task.seek(iteration);
  world.together([&] {
    if (log) log->rewind(iteration);
  });
  clock_start = window_start = EngineClock::now();
  window_seconds_before = window.seconds;
  waited_seen = task.waited_seconds();
}

/// False when there is no checkpoint to go on from.
bool TrainingEngine::State::load_newest() {
  std::string name;
  world.together([&] {
    if (!world.is_root()) return;
    if (const auto found = newest_checkpoint(checkpoints())) {
      name = found->path.filename().string();
      return;
    }
    // Starting anew would replace them, and maybe something can still be saved: that is for a person to decide.
    if (const auto damaged = list_checkpoints(checkpoints()); !damaged.empty())
      fail(ErrorKind::Data,
           {"none of the checkpoints can be used", checkpoints().string(),
            cat("all ", damaged.size(), " are damaged; the newest, ", damaged.front().path.filename().string(), ": ",
                verify_checkpoint(damaged.front().path).value_or("it is whole by now")),
            "put a copy of one back, or remove this folder to train anew"});
  });
  name = world.broadcast_text(name);
  if (name.empty()) return false;
  const Path checkpoint = checkpoints() / name;
  world.together([&] {
    const CheckpointState state = read_checkpoint_state(checkpoint);
    if (state.fingerprint != options.fingerprint)
      fail(ErrorKind::Config,
           {"there are checkpoints of another training", checkpoint.string(),
            "its settings, data, weights or instance library were others than now",
            cat("name another run directory (run.dir), or remove ", options.folder.string(), " to train anew")});
    load_checkpoint(checkpoint, tensors());
    iteration = saved_iteration = state.iteration;
    first_shares = state.first_ranks;
    seconds_before = state.seconds;
    window = state.window;
    if (state.ranks != shares() && world.is_root())
      log::warn(settings().name, ": was trained in ", state.ranks,
                " shares of the batch (ranks, times train.accumulate), ", "goes on with ", shares(),
                "; the samples stay the same, the last bits do not");
  });
  if (world.is_root()) log::info(settings().name, ": goes on at iteration ", iteration, " from ", checkpoint.string());
  return true;
}

StateTensors TrainingEngine::State::tensors() const {
  StateTensors out;
  out["model"] = persistent(task.module().named_tensors());
  if (ema) out["ema"] = persistent(ema->tensors());
  out["optimizer"] = optimizer->state();
  if (scaler)
    for (const auto& [name, tensor] : scaler->state()) out["optimizer"].emplace_back("grad_scaler." + name, tensor);
  return out;
}

/// Collective. Replicas get the same gradients and take the same steps: a bit that differs is a fault of a device.
void TrainingEngine::State::compare_replicas() {
  rank_record().set_phase(Phase::Comparison);
  parallel->check_replicas();
}

/// Collective: replicas are compared on all ranks, rank 0 writes.
void TrainingEngine::State::save() {
  if (saved_iteration == iteration) return;
  const TimeUseTimer timer(TimeUse::Commit);
  compare_replicas();
  rank_record().set_phase(Phase::Saving);
  const PatienceScope patience(settings().init_timeout);
  world.together([&] {
    if (!world.is_root()) return;
    CheckpointState state;
    state.iteration = iteration;
    state.seconds = seconds_before + seconds_since(clock_start);
    state.seed = settings().seed;
    state.ranks = shares();
    state.first_ranks = first_shares;
    state.fingerprint = options.fingerprint;
    state.config_hash = options.config_hash;
    state.software = cat("LibTorch ", TORCH_VERSION);
    state.window = window;
    state.window.seconds = window_seconds_before + seconds_since(window_start);
    writer.start(std::move(state), tensors());
  });
  saved_iteration = iteration;
}

/// Collective: everything that was to be written is, or all ranks throw what rank 0 met.
void TrainingEngine::State::settle() {
  const TimeUseTimer timer(TimeUse::Commit);
  const PatienceScope patience(settings().init_timeout);
  world.together([&] {
    if (log_problem) std::rethrow_exception(std::exchange(log_problem, nullptr));
    writer.wait();
  });
}

/// Collective. The losses of the next step would tell, but a checkpoint must not hold what would make it fail for ever.
bool TrainingEngine::State::weights_are_finite() {
  at::Tensor bad;
  for (const auto& [name, tensor] : persistent(task.module().named_tensors())) {
    if (!tensor.is_floating_point() || tensor.numel() == 0) continue;
    const at::Tensor one = at::isfinite(tensor).all().logical_not();
    bad = bad.defined() ? bad.logical_or(one) : one;
  }
  const bool mine = bad.defined() && bad.item<bool>();
  if (mine) bad_terms = "the weights after the step";
  return !world.any(mine);
}

/// Collective, after a bad step: which ranks had what that is no finite number, for a message.
std::string TrainingEngine::State::name_bad_numbers() {
  std::string mine = bad_terms;
  if (mine.empty() && bad_gradients) {
    mine = "a gradient";
    for (const nn::NamedTensor& named : task.module().named_parameters())
      if (const at::Tensor& gradient = named.tensor.grad();
          gradient.defined() && !at::isfinite(gradient).all().item<bool>()) {
        mine = cat("the gradient of ", named.name);
        break;
      }
  }
  if (!mine.empty()) mine = cat("rank ", world.rank(), " on ", world.host(), ": ", mine);
  constexpr std::size_t kMostNamed = 8;
  std::string all;
  std::size_t named = 0;
  for (const std::string& text : world.gather_texts(mine))
    if (!text.empty() && ++named <= kMostNamed) all += (all.empty() ? "" : "; ") + text;
  if (named > kMostNamed) all += cat("; and ", named - kMostNamed, " more ranks");
  if (all.empty()) all = "the gradients of all ranks together";  // each was finite, and their sum is not
  return world.broadcast_text(all);
}

/// Back to the last good state. Throws Error(Data) when that has not helped kMostRollbacks times.
void TrainingEngine::State::roll_back() {
  bad_iteration = iteration;
  const std::string who = name_bad_numbers();
  if (++rollbacks > kMostRollbacks)
    fail(ErrorKind::Data,
         {"the training has diverged", cat("training '", settings().name, "', step ", iteration),
          cat("not a finite number on ", who, "; ", rollbacks - 1, " returns to the last good checkpoint did not help"),
          "lower train.lr or train.clip_value, or lengthen train.warmup, in a new run directory"});
  settle();
  rank_record().set_phase(Phase::Restoring);
  const PatienceScope patience(settings().init_timeout);
  const std::int64_t bad = iteration;
  fresh();
  load_newest();
  restore();
  if (world.is_root())
    log::warn(settings().name, ": step ", bad, " gave a number that is not finite (", who, "); went back to step ",
              iteration);
}

}  // namespace divergen::stages
