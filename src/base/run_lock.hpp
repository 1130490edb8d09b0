#pragma once
// Two jobs on one run: the second is refused.
//
// Two locks, because neither is enough alone: flock() on <dir>/.lock ends with its holder, however that dies, but many
// cluster file systems keep it within one node; the lease <dir>/run.lock says who holds the run and is touched every 20
// s, so that other nodes see it too. A lease of another node that nobody touched for 120 s is taken over
// (reference/reliability.md §6, double_job). Ages are differences of the file system's own times: clocks of nodes may
// be apart.

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "base/fs.hpp"

namespace divergen {

class RunLock {
 public:
  static constexpr double kStaleSeconds = 120;

  /// Takes both locks. Throws Error(Data) naming the holder (process, host, Slurm job) at once when it is at work,
  /// Error(Io) when the folder cannot be written.
  explicit RunLock(const Path& run_dir, double stale_seconds = kStaleSeconds);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  void take_flock();
  void take_lease(double stale_seconds);
  void keep_alive();

  Path dir_, lease_;
  std::string own_;  // text of the lease
  int descriptor_ = -1;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool is_ending_ = false;
  std::thread heart_;
};

}  // namespace divergen
