#include "comm/progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "base/log.hpp"
#include "base/text.hpp"
#include "comm/mpi_support.hpp"

namespace divergen::comm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTag = 1;
constexpr auto kSendInterval = std::chrono::milliseconds(250);
constexpr auto kTick = std::chrono::milliseconds(100);  // how often rank 0 looks for messages
constexpr double kWindowSeconds = 60;                   // of the rate: shards come in lumps

using Message = std::array<std::int64_t, 3>;  // done, rejected, whether it is the last

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

std::string rate_text(double rate) {
  if (rate >= 0.1 || rate <= 0) return cat(fixed(rate, rate < 10 ? 1 : 0), "/s");
  return cat(fixed(60 * rate, 2), "/min");
}

// Columns of the terminal; 80 where it does not say.
std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

}  // namespace

bool ProgressOptions::stderr_is_terminal() {
  const char* type = std::getenv("TERM");
  if (type != nullptr && std::strcmp(type, "dumb") == 0) return false;
  const char* told = std::getenv("DIVERGEN_TERMINAL");
  return told != nullptr ? std::strcmp(told, "1") == 0 : isatty(STDERR_FILENO) != 0;
}

std::string progress_line(const ProgressView& view) {
  std::string out = cat(view.stage, ": ", with_thousands(view.done));
  if (view.total > 0) {
    out += cat(" of ", with_thousands(view.total));
    if (view.done < view.total) out += cat(" (", 100 * view.done / view.total, " %)");
  }
  if (view.finished) out += cat(" in ", human_seconds(view.seconds));
  out += cat(", ", rate_text(view.rate));
  if (view.rejected > 0) out += cat(", ", with_thousands(view.rejected), " rejected");
  if (view.slowest_rank >= 0) {
    out += cat(", slowest rank ", view.slowest_rank, " (", rate_text(view.slowest_rate));
    // Shards come in lumps: a tenth of difference is none.
    if (view.slowest_rate > 0 && view.median_rate > 1.1 * view.slowest_rate)
      out += cat(", ", fixed(view.median_rate / view.slowest_rate, 1), " times slower than the median");
    out += ")";
  }
  if (view.finished) return out;
  const double left = view.rate > 0 ? static_cast<double>(view.total - view.done) / view.rate : 0;
  if (left > 0) out += cat(", ", human_seconds(left), " left");
  if (view.walltime_left > 0)
    out += cat(left > view.walltime_left ? ", TOO LONG for the walltime: " : ", walltime ",
               human_seconds(view.walltime_left));
  return out;
}

struct Progress::Sender {
  std::atomic<Clock::rep> next_time{(Clock::now() + kSendInterval).time_since_epoch().count()};
  std::mutex mutex;  // of what follows
  MPI_Request request = MPI_REQUEST_NULL;
  // Not a member: MPI may still read it when an exception takes the object away.
  std::unique_ptr<Message> message = std::make_unique<Message>();
};

struct Progress::Reporter {
  std::string stage;
  std::int64_t total = 0, done_before = 0;
  ProgressOptions options;
  std::vector<Message> ranks;
  const std::atomic<std::int64_t>*own_done = nullptr, *own_rejected = nullptr;
  MPI_Comm comm = MPI_COMM_NULL;

  std::thread thread;
  std::mutex mutex;
  std::condition_variable wake;
  bool finishing = false, stopping = false;  // by the mutex

  const Clock::time_point start = Clock::now();
  Clock::time_point next_line, next_sample, next_observation;
  std::deque<std::pair<Clock::time_point, std::int64_t>> samples;  // items of this start, over the window
  std::size_t shown = 0;                                           // characters of the line on the terminal

  void run();
  void receive();
  bool all_are_through() const;
  ProgressView view(Clock::time_point now, bool finished);
  void show(const std::string& line, bool finished);
};

void Progress::Reporter::run() {
  const auto interval = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(options.terminal ? options.terminal_interval : options.plain_interval));
  next_line = start + interval;
  for (bool done = false; !done;) {
    {
      std::unique_lock lock(mutex);
      wake.wait_for(lock, kTick, [&] { return stopping || finishing; });
      if (stopping) {
        if (shown > 0) show("", true);
        return;
      }
      done = finishing;
    }
    receive();
    detail::Backoff backoff;
    for (; done && !all_are_through(); receive()) {
      backoff.pause();
      const std::lock_guard lock(mutex);
      if (stopping) return;
    }
    const auto now = Clock::now();
    if (options.observer && (done || now >= next_observation)) {
      options.observer(view(now, done));
      next_observation =
          now + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.observer_interval));
    }
    if (!done && now < next_line) continue;
    show(progress_line(view(now, done)), done);
    next_line = now + interval;
  }
}

void Progress::Reporter::receive() {
  for (int found = 1; comm != MPI_COMM_NULL && found;) {
    MPI_Message handle;
    MPI_Status status;
    detail::check(MPI_Improbe(MPI_ANY_SOURCE, kTag, comm, &found, &handle, &status), "progress");
    if (!found) break;
    Message& counts = ranks.at(static_cast<std::size_t>(status.MPI_SOURCE));
    detail::check(MPI_Mrecv(counts.data(), 3, MPI_INT64_T, &handle, MPI_STATUS_IGNORE), "progress");
  }
  ranks[0] = {own_done->load(), own_rejected->load(), 1};
  const auto now = Clock::now();
  if (now < next_sample) return;
  next_sample = now + std::chrono::seconds(1);
  std::int64_t done = 0;
  for (const Message& counts : ranks) done += counts[0];
  samples.emplace_back(now, done);
  while (samples.size() > 2 && seconds_between(samples[1].first, now) > kWindowSeconds) samples.pop_front();
}

bool Progress::Reporter::all_are_through() const {
  return std::all_of(ranks.begin(), ranks.end(), [](const Message& counts) { return counts[2] != 0; });
}

ProgressView Progress::Reporter::view(Clock::time_point now, bool finished) {
  ProgressView out;
  out.stage = stage;
  out.total = total;
  out.finished = finished;
  out.seconds = seconds_between(start, now);
  std::int64_t done = 0;
  std::size_t slowest = 0;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    done += ranks[r][0];
    out.rejected += ranks[r][1];
    if (ranks[r][0] < ranks[slowest][0]) slowest = r;
  }
  out.done = done_before + done;
  const bool whole = finished || samples.empty() || seconds_between(samples.front().first, now) < 1;
  const double span = whole ? out.seconds : seconds_between(samples.front().first, now);
  out.rate = span > 0 ? static_cast<double>(whole ? done : done - samples.front().second) / span : 0;
  if (ranks.size() > 1 && out.seconds > 0) {
    out.slowest_rank = static_cast<int>(slowest);
    out.slowest_rate = static_cast<double>(ranks[slowest][0]) / out.seconds;
    std::vector<std::int64_t> counts;
    for (const Message& one : ranks) counts.push_back(one[0]);
    const auto middle = counts.begin() + static_cast<std::ptrdiff_t>(counts.size() / 2);  // of two ranks, the faster
    std::nth_element(counts.begin(), middle, counts.end());
    out.median_rate = static_cast<double>(*middle) / out.seconds;
  }
  if (options.walltime_left > 0) out.walltime_left = std::max(1.0, options.walltime_left - out.seconds);
  return out;
}

void Progress::Reporter::show(const std::string& line, bool finished) {
  std::string text = line;
  if (options.terminal) {
    const std::size_t width = terminal_width() - 1;  // a full last column would wrap the line
    if (text.size() > width && !finished) text.resize(width);
    const std::size_t length = text.size();
    if (length < shown) text.append(shown - length, ' ');
    shown = length;
    text = cat("\r", text, finished ? "\n" : "");
  }
  if (options.sink) {
    options.sink(text);
  } else if (options.terminal) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  } else {
    log::info(text);
  }
}

Progress::Progress(World& world, std::string stage, std::int64_t total, std::int64_t done_before,
                   ProgressOptions options)
    : world_(world) {
  if (world.size() > 1) channel_ = detail::to_pointer(detail::duplicate_world());
  if (!world.is_root()) {
    sender_ = std::make_unique<Sender>();
    return;
  }
  reporter_ = std::make_unique<Reporter>();
  reporter_->stage = std::move(stage);
  reporter_->total = total;
  reporter_->done_before = done_before;
  reporter_->options = std::move(options);
  reporter_->ranks.assign(static_cast<std::size_t>(world.size()), Message{});
  reporter_->own_done = &done_;
  reporter_->own_rejected = &rejected_;
  if (channel_ != nullptr) reporter_->comm = detail::to_comm(channel_);
  reporter_->thread = std::thread([reporter = reporter_.get()] {
    try {
      reporter->run();
    } catch (const std::exception& error) {
      log::warn("no more progress lines: ", error.what());
    }
  });
}

Progress::~Progress() {
  if (reporter_ && reporter_->thread.joinable()) {
    {
      const std::lock_guard lock(reporter_->mutex);
      reporter_->stopping = true;
    }
    reporter_->wake.notify_all();
    reporter_->thread.join();
  }
  if (sender_ && sender_->request != MPI_REQUEST_NULL) {
    int done = 0;
    MPI_Test(&sender_->request, &done, MPI_STATUS_IGNORE);
    if (!done) static_cast<void>(sender_->message.release());  // 24 bytes that MPI may still read
  }
}

void Progress::send(bool last) {
  Sender& s = *sender_;
  std::unique_lock lock(s.mutex, std::try_to_lock);
  if (!lock && !last) return;  // another thread is sending
  if (!lock) lock.lock();
  s.next_time = (Clock::now() + kSendInterval).time_since_epoch().count();
  if (s.request != MPI_REQUEST_NULL) {
    int done = 0;
    detail::check(MPI_Test(&s.request, &done, MPI_STATUS_IGNORE), "progress");
    if (!done && !last) return;  // the next call tells more anyway
    if (!done) detail::wait(s.request, "progress");
  }
  *s.message = {done_.load(), rejected_.load(), last ? 1 : 0};
  detail::check(MPI_Isend(s.message->data(), 3, MPI_INT64_T, 0, kTag, detail::to_comm(channel_), &s.request),
                "progress");
  if (last) detail::wait(s.request, "progress");
}

void Progress::add(std::int64_t items, std::int64_t rejected) {
  done_.fetch_add(items, std::memory_order_relaxed);
  if (rejected != 0) rejected_.fetch_add(rejected, std::memory_order_relaxed);
  if (sender_ && Clock::now().time_since_epoch().count() >= sender_->next_time.load(std::memory_order_relaxed))
    send(false);
}

void Progress::finish() {
  DIVERGEN_CHECK(!finished_, "finish() twice");
  finished_ = true;
  if (sender_) send(true);
  if (reporter_) {
    {
      const std::lock_guard lock(reporter_->mutex);
      reporter_->finishing = true;
    }
    reporter_->wake.notify_all();
    reporter_->thread.join();
  }
  if (channel_ == nullptr) return;
  world_.barrier();
  MPI_Comm comm = detail::to_comm(channel_);
  channel_ = nullptr;
  detail::check(MPI_Comm_free(&comm), "progress");
}

}  // namespace divergen::comm
