#include "stages/train/engine.hpp"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "base/clock.hpp"
#include "base/fault.hpp"
#include "base/log.hpp"
#include "base/rank_record.hpp"
#include "base/time_use.hpp"
#include "base/walltime.hpp"
#include "stages/train/engine_state.hpp"

namespace divergen::stages {
namespace {

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
  window_start = EngineClock::now();
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

TrainingResult TrainingEngine::State::result_of(EngineClock::time_point start, double waited_before) const {
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
  const auto start = EngineClock::now();
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
