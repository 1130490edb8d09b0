#pragma once
// Threads for one call: started, used, joined. Fit for work of milliseconds and more.

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace divergen::lvis {

/// The processors that this process may run on, at least 1.
unsigned usable_threads();

/// Calls work(lane) on `threads` threads (this one among them), lane = 0 .. threads-1, and returns when all are
/// through. The first exception is thrown again.
template <class Work>
void on_threads(unsigned threads, const Work& work) {
  std::exception_ptr problem;
  std::mutex mutex;
  const auto guarded = [&](unsigned lane) {
    try {
      work(lane);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!problem) problem = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (unsigned lane = 1; lane < threads; ++lane) others.emplace_back(guarded, lane);
  guarded(0);
  for (std::thread& other : others) other.join();
  if (problem) std::rethrow_exception(problem);
}

/// Calls work(lane, i) for all i < count, in any order, handing out `grain` at a time.
template <class Work>
void parallel_for(std::size_t count, unsigned threads, std::size_t grain, const Work& work) {
  std::atomic<std::size_t> next{0};
  const auto useful = static_cast<unsigned>(std::min<std::size_t>(threads, (count + grain - 1) / grain));
  on_threads(std::max(1U, useful), [&](unsigned lane) {
    for (std::size_t first; (first = next.fetch_add(grain)) < count;)
      for (std::size_t i = first; i < std::min(count, first + grain); ++i) work(lane, i);
  });
}

}  // namespace divergen::lvis
