#include "stages/train/engine.hpp"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <optional>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/fault.hpp"
#include "base/log.hpp"
#include "base/rank_record.hpp"
#include "base/text.hpp"
#include "base/time_use.hpp"
#include "base/walltime.hpp"
#include "nn/adamw.hpp"
#include "nn/amp.hpp"
#include "nn/ddp.hpp"
#include "nn/ema.hpp"
#include "nn/lr_schedule.hpp"
#include "stages/train/checkpoint.hpp"
#include "stages/train/training_log.hpp"

namespace divergen::stages {
namespace {

using Clock = std::chrono::steady_clock;
using NamedValues = std::vector<std::pair<std::string, at::Tensor>>;

// reference/reliability.md §5: after so many returns to a good checkpoint the fault is not a passing one.
constexpr std::int64_t kMostRollbacks = 3;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

NamedValues persistent(const std::vector<nn::NamedTensor>& tensors) {
  NamedValues out;
  for (const auto& entry : tensors)
    if (entry.is_persistent) out.emplace_back(entry.name, entry.tensor.detach());
  return out;
}

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

/// What one step told all ranks; the same on each of them.
struct Agreed {
  bool stop = false, bad_number = false, write_failed = false;
  double waited = 0;                    // seconds of all ranks together
  std::map<std::string, double> terms;  // means over ranks
};

/// Adds a part's term to the mean over parts, where the device need not be waited for.
void add_mean(at::Tensor& mean, const at::Tensor& term, std::int64_t parts) {
  const at::Tensor value = term.detach().reshape({}).to(at::kDouble);
  if (parts == 1) mean = value;
  else mean = mean.defined() ? mean + value / parts : value / parts;
}

/// LibTorch's warnings (the gradient engine's advice on settings) go to the log's details.
struct WarningsToLog : c10::WarningHandler {
  void process(const c10::Warning& warning) override { log::debug("LibTorch: ", warning.msg()); }
};

void add_phases(TrainingResult& result, double begun, const TimeUseClock::Seconds& before) {
  const auto since = [&](TimeUse use) { return time_use().seconds(use) - before[static_cast<std::size_t>(use)]; };
  result.begun = begun;
  result.ended = epoch_seconds();
  result.commit_seconds = since(TimeUse::Commit);
  result.comm_seconds = since(TimeUse::Comm) + since(TimeUse::Agree);
  if (const double moving = since(TimeUse::Moving); moving > 0)
    result.comm_overlap = std::clamp(1 - since(TimeUse::Comm) / moving, 0.0, 1.0);
}

}  // namespace

struct TrainingEngine::State {
  State(TrainingTask& task_, comm::World& world_, TrainingOptions options_)
      : task(task_),
        world(world_),
        options(std::move(options_)),
        writer(checkpoints(), {settings().keep_checkpoints, settings().keep_every}) {
    if (settings().batch % shares() != 0)
      fail(ErrorKind::Config,
           {"the batch cannot be shared evenly by the ranks", cat("train.batch of '", settings().name, "'"),
            cat("it is ", settings().batch, ", and there are ", world.size(), " ranks",
                settings().accumulate > 1 ? cat(" with train.accumulate = ", settings().accumulate) : ""),
            "choose a number of ranks, times train.accumulate, that divides it"});
    schedule = {settings().lr, settings().iterations, settings().warmup, settings().warmup_factor};
  }

  const config::TrainSettings& settings() const { return options.settings; }
  /// Of the batch: what decides, with the seed, all but the last bits.
  std::int64_t shares() const { return world.size() * settings().accumulate; }
  Path checkpoints() const { return options.folder / "checkpoints"; }

  void begin();
  void fresh();
  void restore();
  bool load_newest();
  void save();
  void compare_replicas();
  void backward(const at::Tensor& total);
  Agreed step();
  Agreed agree(const std::map<std::string, at::Tensor>& terms, const at::Tensor& grad_norm);
  bool weights_are_finite();
  std::string name_bad_numbers();
  void settle();
  void roll_back();
  void log_window(double lr);
  void advance(const Agreed& agreed);
  StateTensors tensors() const;
  TrainingResult result_of(Clock::time_point start, double waited_before) const;

  TrainingTask& task;
  comm::World& world;
  TrainingOptions options;
  nn::WarmupCosine schedule;
  std::optional<nn::DataParallel> parallel;
  std::optional<nn::Ema> ema;
  std::optional<nn::AdamW> optimizer;
  std::optional<nn::GradScaler> scaler;  // with fp16
  std::optional<TrainingLog> log;
  CheckpointWriter writer;
  std::exception_ptr log_problem;
  const std::function<bool()>* stop_requested = nullptr;

  std::int64_t iteration = 0, saved_iteration = -1;
  std::int64_t first_shares = 1;  // of the batch, when the training began
  double seconds_before = 0;      // of training, at the last restore
  Clock::time_point clock_start;  // of the last restore
  LogWindow window;
  double window_seconds_before = 0;  // of the window, at the last restore
  Clock::time_point window_start;
  double waited_seen = 0;
  std::int64_t steps = 0, rollbacks = 0, bad_iteration = -1;
  std::string bad_terms;       // of this rank and step: losses that are no finite numbers
  bool bad_gradients = false;  // of this rank and step, before they were averaged
  double last_loss = std::nan("");
};

void TrainingEngine::State::begin() {
  rank_record().set_phase(Phase::Starting);
  world.together([&] {
    if (!world.is_root()) return;
    make_folder(checkpoints());
    sweep_parts(checkpoints());
    sweep_parts(options.folder);
    log.emplace(options.folder);
  });
  fresh();
  nn::DataParallelOptions parallel_options;
  parallel_options.timeout_seconds = settings().init_timeout;
  parallel_options.dump_folder = options.logs.empty() ? options.folder : options.logs;
  parallel.emplace(task.module(), world, parallel_options);
  if (!load_newest() && world.is_root()) log::info(settings().name, ": starts at the beginning");
  restore();
}

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
  clock_start = window_start = Clock::now();
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

void TrainingEngine::State::backward(const at::Tensor& total) {
  if (!fault::spoils("train.gradient")) return total.backward();
  const at::Tensor parameter = optimizer->parameters().front().tensor;
  const unsigned hook = parameter.register_hook([](const at::Tensor& gradient) { return gradient * std::nan(""); });
  total.backward();
  parameter.remove_hook(hook);
}

/// One step (semantics.md §8.1): forward, averages before the weights change, backward, clamp and AdamW. The weights
/// are not touched when a number is bad.
Agreed TrainingEngine::State::step() {
  rank_record().set_step(iteration);
  fault::reach("train.step");
  optimizer->zero_grad();
  const std::int64_t parts = settings().accumulate;
  std::map<std::string, at::Tensor> means;
  for (std::int64_t part = 0; part < parts; ++part) {
    rank_record().set_phase(Phase::Forward);
    auto terms = parts == 1 ? task.losses(iteration) : task.part_losses(iteration, part, parts);
    DIVERGEN_CHECK(!terms.empty());
    if (fault::spoils("train.loss")) terms.begin()->second = terms.begin()->second * std::nan("");
    at::Tensor total;
    for (const auto& [name, term] : terms) {
      total = total.defined() ? total + term : term;
      add_mean(means[name], term, parts);
    }
    if (part == 0 && ema) ema->update(task.module());
    if (parts > 1) total = total / static_cast<double>(parts);
    if (scaler) total = scaler->scale(total);
    rank_record().set_phase(Phase::Backward);
    // Ranks exchange gradients once a step: a backward that is not prepared only adds to this rank's own.
    if (part + 1 == parts) parallel->prepare_for_backward({total});
    backward(total);
  }
  parallel->finish_backward();
  rank_record().set_phase(Phase::Agreement);
  // Gradients that leave float16's range are no fault: the step is left out and the scale lowered, on all ranks alike.
  const bool overflow = scaler && scaler->unscale(optimizer->parameters());
  Agreed agreed = agree(means, overflow ? at::zeros({}) : optimizer->grad_norm());
  if (agreed.bad_number) return agreed;
  if (!overflow) optimizer->step(schedule.at(iteration));
  if (fault::spoils("train.weights")) {
    at::NoGradGuard no_grad;
    optimizer->parameters().front().tensor.select(0, 0).fill_(std::nan(""));
  }
  if (scaler) scaler->update(overflow);
  return agreed;
}

/// The only point of a step where ranks exchange small numbers, and where the device is waited for.
Agreed TrainingEngine::State::agree(const std::map<std::string, at::Tensor>& terms, const at::Tensor& grad_norm) {
  std::vector<at::Tensor> values;
  for (const auto& [name, term] : terms) values.push_back(term);
  values.push_back(grad_norm.detach().reshape({}).to(at::kDouble));
  const std::size_t shared = values.size();
  if (const at::Tensor local = parallel->bad_local_gradients(); local.defined())
    values.push_back(local.to(at::kDouble));
  const at::Tensor numbers = at::stack(values).cpu();
  parallel->device_is_done();
  const auto* number = numbers.const_data_ptr<double>();

  constexpr std::size_t kFlags = 4;
  std::vector<double> message(kFlags + shared);
  bad_terms.clear();
  std::size_t k = 0;
  for (const auto& [name, term] : terms)
    if (!std::isfinite(number[k++])) bad_terms += (bad_terms.empty() ? "" : ", ") + name;
  const bool bad = !bad_terms.empty() || !std::isfinite(number[k]);
  bad_gradients = values.size() > shared ? number[shared] != 0 : !std::isfinite(number[k]);
  const double waited = task.waited_seconds();
  message[0] = (*stop_requested)() ? 1 : 0;
  message[1] = bad ? 1 : 0;
  message[2] = log_problem || writer.has_failed() ? 1 : 0;
  message[3] = waited - waited_seen;
  waited_seen = waited;
  std::copy_n(number, shared, message.begin() + kFlags);
  {
    const TimeUseTimer timer(TimeUse::Agree);
    world.sum(std::span<double>(message));
  }

  Agreed out{message[0] > 0, message[1] > 0, message[2] > 0, message[3], {}};
  k = kFlags;
  for (const auto& [name, term] : terms) out.terms[name] = message[k++] / world.size();
  out.terms["grad_norm"] = message[k] / world.size();
  return out;
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

void TrainingEngine::State::log_window(double lr) {
  const double elapsed = window_seconds_before + seconds_since(window_start);
  const auto mean = [&](double sum) { return sum / static_cast<double>(std::max<std::int64_t>(window.steps, 1)); };
  LogLine line;
  line.iteration = iteration;
  line.lr = lr;
  line.seconds = seconds_before + seconds_since(clock_start);
  for (const auto& [name, sum] : window.sums) {
    line.terms[name] = mean(sum);
    if (name != "grad_norm") line.loss_total += line.terms[name];
  }
  line.data_wait = std::min(1.0, window.waited / std::max(elapsed * world.size(), 1e-9));
  line.images_per_second = static_cast<double>(window.steps * settings().batch) / std::max(elapsed, 1e-9);
  line.memory_mb = resident_megabytes();
  last_loss = line.loss_total;
  if (log) {
    try {
      log->write(line);
    } catch (...) {
      log_problem = std::current_exception();  // the other ranks hear of it at the next agreement
    }
    const double left = static_cast<double>(settings().iterations - iteration) * mean(elapsed);
    log::info(settings().name, " ", iteration, "/", settings().iterations, "  loss ", fixed(line.loss_total, 4),
              "  lr ", fixed(lr * 1e6, 2), "e-6  ", fixed(line.images_per_second, 2), " images/s  waiting for data ",
              fixed(100 * line.data_wait, 1), " %  ", fixed(line.memory_mb, 0), " MB  left ", human_seconds(left));
    comm::ProgressView view;
    view.stage = cat("train.", settings().name);
    view.done = iteration;
    view.total = settings().iterations;
    view.rate = static_cast<double>(window.steps) / std::max(elapsed, 1e-9);
    view.seconds = line.seconds;
    if (const double walltime = job_clock().seconds_left(); walltime < WalltimeClock::kForever)
      view.walltime_left = std::max(1.0, walltime);
    view.finished = iteration == settings().iterations;
    options.report_progress(view);
  }
  window = {};
  window_seconds_before = 0;
  window_start = Clock::now();
}

/// After a good step: count, log, save, stop.
void TrainingEngine::State::advance(const Agreed& agreed) {
  const double lr = schedule.at(iteration);
  if (iteration == bad_iteration) {
    if (world.is_root())
      log::warn(settings().name, ": step ", iteration, " gave finite numbers when it was repeated: suspect a faulty ",
                "device among the ranks named above");
    bad_iteration = -1;
  }
  ++iteration;
  ++steps;
  ++window.steps;
  window.waited += agreed.waited;
  for (const auto& [name, value] : agreed.terms) window.sums[name] += value;
  const bool is_last = iteration == settings().iterations;
  if (iteration % settings().log_every == 0 || is_last) log_window(lr);
  if (agreed.write_failed) settle();
  const bool stopping = agreed.stop && !is_last;
  const std::int64_t comparing = settings().compare_replicas;
  const bool saving = iteration % settings().checkpoint_every == 0 || is_last || stopping;
  if (saving && !weights_are_finite()) {
    --iteration;
    return roll_back();  // a stop is asked for again in the next step
  }
  if (saving) save();
  else if (comparing > 0 && iteration % comparing == 0) compare_replicas();
  if (!stopping) return;
  settle();
  fail(ErrorKind::Stopped,
       {"the training stopped on request", cat("training '", settings().name, "'"),
        cat("step ", iteration, " of ", settings().iterations, " is saved"), "run the same command again to go on"});
}

TrainingResult TrainingEngine::State::result_of(Clock::time_point start, double waited_before) const {
  TrainingResult out;
  const double elapsed = seconds_since(start);
  const double waited = task.waited_seconds() - waited_before;
  double shares[2] = {waited, elapsed};
  world.sum(std::span<double>(shares));
  out.iterations = iteration;
  out.steps = steps;
  out.seconds = seconds_before + seconds_since(clock_start);
  out.busy_seconds = std::max(0.0, elapsed - waited);
  out.images_per_second = static_cast<double>(steps * settings().batch) / std::max(elapsed, 1e-9);
  out.data_wait = shares[0] / std::max(shares[1], 1e-9);
  out.loss_total = last_loss;
  out.waited_seconds = waited;
  out.rollbacks = rollbacks;
  return out;
}

std::map<std::string, at::Tensor> TrainingTask::part_losses(std::int64_t iteration, std::int64_t part,
                                                            std::int64_t parts) {
  DIVERGEN_CHECK(part == 0 && parts == 1, "this task cannot be computed in parts: set train.accumulate = 1");
  return losses(iteration);
}

TrainingEngine::TrainingEngine(TrainingTask& task, comm::World& world, TrainingOptions options)
    : state_(std::make_unique<State>(task, world, std::move(options))) {}
TrainingEngine::~TrainingEngine() = default;

TrainingResult TrainingEngine::run(const std::function<bool()>& stop_requested) {
  State& s = *state_;
  WarningsToLog warnings;
  const c10::WarningUtils::WarningHandlerGuard guard(&warnings);
  s.stop_requested = &stop_requested;
  const PatienceScope patience(s.settings().init_timeout);
  s.begin();
  const auto start = Clock::now();
  const double waited_before = s.task.waited_seconds();
  const double begun = epoch_seconds();
  const TimeUseClock::Seconds before = time_use().seconds();
  while (s.iteration < s.settings().iterations) {
    const Agreed agreed = s.step();
    if (agreed.bad_number) s.roll_back();
    else s.advance(agreed);
    if (s.steps == 1) s.parallel->set_timeout(s.settings().step_timeout);
    rank_record().set_patience(s.settings().step_timeout);
  }
  rank_record().set_phase(Phase::Ending);
  s.settle();
  TrainingResult result = s.result_of(start, waited_before);
  add_phases(result, begun, before);
  return result;
}

std::vector<std::pair<std::string, at::Tensor>> TrainingEngine::result() const {
  return state_->ema ? persistent(state_->ema->tensors()) : raw();
}

std::vector<std::pair<std::string, at::Tensor>> TrainingEngine::raw() const {
  return persistent(state_->task.module().named_tensors());
}

}  // namespace divergen::stages
