#pragma once
// One line for all ranks that says how far a stage is.
//
// Each rank counts its own items and sends its two numbers to rank 0 now and then (at most four times a second, 24
// bytes, without waiting); a thread of rank 0 collects them and writes the line: on a terminal it rewrites one line,
// elsewhere it logs a plain one at most every ten seconds. Everything goes to stderr (and the log file); no colour.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/world.hpp"

namespace divergen::comm {

struct ProgressView;

struct ProgressOptions {
  /// Seconds from now until the job must end; 0: unknown. Shown beside the time that the rest will take.
  double walltime_left = 0;
  double plain_interval = 10, terminal_interval = 0.5;  // seconds between two lines
  /// Whether stderr ends in a terminal. Under mpirun a rank's stderr is a pipe; the driver, who knows, says so by
  /// DIVERGEN_TERMINAL=1.
  bool terminal = stderr_is_terminal();
  /// Where lines go; empty: stderr (terminal) or log::info (plain). For tests. Called by one thread of rank 0.
  std::function<void(std::string_view)> sink;
  /// Told how far the stage is, every few seconds and at its end, by the same thread; for files that others watch. It
  /// must not throw.
  std::function<void(const ProgressView&)> observer;
  double observer_interval = 5;  // seconds

  static bool stderr_is_terminal();
};

/// What a line says.
struct ProgressView {
  std::string stage;
  std::int64_t done = 0, total = 0;  // items of the stage, earlier starts included; total 0: unknown
  std::int64_t rejected = 0;         // of this start
  double rate = 0;                   // items a second of all ranks together, lately
  int slowest_rank = -1;             // -1: not known, or one rank
  double slowest_rate = 0;           // items a second since this start
  double median_rate = 0;            // of the ranks, likewise
  double seconds = 0;                // since this start
  double walltime_left = 0;          // seconds, 0: unknown
  bool finished = false;
};
/// "generate: 1,200 of 4,000 (30 %), 3.5/s, 14 rejected, slowest rank 3 (0.6/s, 1.8 times slower than the
/// median), 13 min 20 s left". Pure.
std::string progress_line(const ProgressView& view);

class Progress {
 public:
  /// Collective. `total` items in all, `done_before` of them by earlier starts (both as rank 0 knows them).
  Progress(World& world, std::string stage, std::int64_t total, std::int64_t done_before,
           ProgressOptions options = ProgressOptions());
  /// Without finish() (an exception is on its way) it just stops.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// This rank has done so many more items (the rejected among them). Any thread; takes well under a microsecond but
  /// for the four calls a second that send.
  void add(std::int64_t items, std::int64_t rejected = 0);
  /// Collective: collects the last numbers and writes the closing line. Call once.
  void finish();

 private:
  struct Reporter;  // rank 0: collects and writes
  struct Sender;    // other ranks
  void send(bool last);

  World& world_;
  std::atomic<std::int64_t> done_{0}, rejected_{0};
  std::unique_ptr<Sender> sender_;
  std::unique_ptr<Reporter> reporter_;
  bool finished_ = false;
  void* channel_ = nullptr;
};

}  // namespace divergen::comm
