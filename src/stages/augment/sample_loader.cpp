#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.hpp"
#include "stages/augment/sample_maker.hpp"

namespace divergen::stages {

struct SampleLoader::State {
  struct Made {
    std::optional<Sample> sample;
    std::exception_ptr error;
  };

  State(std::function<Sample(std::uint64_t)> of, std::uint64_t from, std::uint64_t step, std::int64_t most)
      : make(std::move(of)),
        first(from),
        stride(step),
        depth(static_cast<std::uint64_t>(std::max<std::int64_t>(most, 1))) {}

  const std::function<Sample(std::uint64_t)> make;
  const std::uint64_t first, stride, depth;
  std::mutex mutex;
  std::condition_variable room, ready;
  std::uint64_t claimed = 0, handed_out = 0;  // samples; handed_out <= claimed <= handed_out + depth
  std::map<std::uint64_t, Made> made;
  bool stop = false;
  std::exception_ptr failed;  // what next() threw
  double waited = 0;
  std::vector<std::thread> threads;

  ~State() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    room.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  Made attempt(std::uint64_t n) const noexcept {
    try {
      return {make(first + n * stride), nullptr};
    } catch (...) {
      return {std::nullopt, std::current_exception()};
    }
  }

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      room.wait(lock, [&] { return stop || claimed < handed_out + depth; });
      if (stop) return;
      const std::uint64_t n = claimed++;
      lock.unlock();
      Made one = attempt(n);
      lock.lock();
      if (one.error) stop = true;  // nobody will ask for what comes after
      made.emplace(n, std::move(one));
      ready.notify_one();
      if (stop) room.notify_all();
    }
  }

  Made wait_for_next() {
    if (threads.empty()) return attempt(handed_out++);
    std::unique_lock lock(mutex);
    const auto start = std::chrono::steady_clock::now();
    ready.wait(lock, [&] { return made.contains(handed_out); });
    waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    Made one = std::move(made.extract(handed_out).mapped());
    ++handed_out;
    room.notify_one();
    return one;
  }
};

SampleLoader::SampleLoader(std::function<Sample(std::uint64_t)> make, std::uint64_t first, std::uint64_t stride,
                           std::int64_t threads, std::int64_t depth)
    : state_(std::make_unique<State>(std::move(make), first, stride, depth)) {
  DIVERGEN_CHECK(stride > 0 && threads >= 0, stride, ", ", threads);
  for (std::int64_t i = 0; i < threads; ++i) state_->threads.emplace_back([state = state_.get()] { state->work(); });
}

SampleLoader::SampleLoader(const SampleMaker& maker, std::uint64_t first, std::uint64_t stride, std::int64_t threads,
                           std::int64_t depth)
    : SampleLoader([&maker](std::uint64_t position) { return maker.make(position); }, first, stride, threads, depth) {}

SampleLoader::~SampleLoader() = default;

Sample SampleLoader::next() {
  if (state_->failed) std::rethrow_exception(state_->failed);
  State::Made one = state_->wait_for_next();
  if (one.error) {
    state_->failed = one.error;
    std::rethrow_exception(one.error);
  }
  return std::move(*one.sample);
}

double SampleLoader::waited_seconds() const { return state_->waited; }

}  // namespace divergen::stages
