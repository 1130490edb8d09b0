#pragma once
// What this process, one rank of a job, is doing: kept where others can read it when it can no longer tell.
//
// Every collective call notes itself in a small record: a few stores into memory. Attached to a file, the record is
// that file's page, which stays with the system whatever becomes of the process. Others read it: a rank that waits in
// vain (comm/watchdog.hpp), the driver of a job that has ended suddenly, the next start. Knows nothing of MPI.

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/fs.hpp"

namespace divergen {

/// Threads that call collectives, each of them in the same order on all ranks: counts of one lane can be compared.
enum class Lane : std::uint32_t { Main, Gradients };
inline constexpr std::size_t kLanes = 2;

enum class Call : std::uint32_t { None, Barrier, Broadcast, Gather, Sum, Maximum, GradientSum, GradientsOnDevice };
std::string_view to_string(Call call);

/// What the main thread is at.
enum class Phase : std::uint32_t {
  Other,
  Starting,
  Forward,
  Backward,
  Agreement,
  Comparison,
  Saving,
  Restoring,
  Ending
};
std::string_view to_string(Phase phase);

/// How a rank has left the job, as far as it could say.
enum class Leaving : std::uint32_t {
  No,        // it is at work, or was ended from outside
  InOrder,   // it was through, or has told its error
  EndedJob,  // the same, and it ended all other ranks: they could not say anything
};

struct LaneState {
  std::uint64_t begun = 0, ended = 0;  // calls
  Call call = Call::None;              // the last that was begun
  std::uint64_t bytes = 0;             // of its data on this rank
  double changed = 0;                  // monotonic seconds of its beginning or end
  bool is_inside() const { return begun > ended; }
};

/// A record as it was read.
struct RankState {
  int rank = 0, ranks = 1;
  std::int64_t pid = 0;
  std::uint64_t started = 0;  // ticks after boot, /proc/<pid>/stat: with the pid it names one process
  std::string host, stage;
  double beat = 0, beat_epoch = 0;  // last sign of life: monotonic seconds of its host, and since 1970
  std::int64_t step = -1;           // of training; -1: none
  Phase phase = Phase::Other;
  Leaving leaving = Leaving::No;
  std::array<LaneState, kLanes> lanes;
  const LaneState& lane(Lane which) const { return lanes[static_cast<std::size_t>(which)]; }
};

/// "rank 1 on node7 (process 4242): step 17, backward; last collective: sum of gradients #123 (6.2 MiB), in it for 5.3
/// s". `now`: monotonic seconds of the record's host.
std::string describe(const RankState& state, double now);

namespace detail {
struct RecordPage;
}

/// The record of this process. Notes may come from any thread; attach() and the setters from the main thread.
class RankRecord {
 public:
  /// From now on the record is the contents of `file`, which is made. False, with the reason in the log, when the
  /// file system does not allow it; notes are then kept in memory alone.
  bool attach(const Path& file, int rank, int ranks, const std::string& host, const std::string& stage);
  /// Later notes go to memory alone; the file keeps the last ones.
  void detach();

  void begin(Lane lane, Call call, std::uint64_t bytes);
  void end(Lane lane);
  void set_step(std::int64_t step);
  void set_phase(Phase phase);
  void leave(Leaving how);
  /// A sign of life.
  void beat();
  /// Takes the page to the file system, for readers on other nodes.
  void flush();
  RankState state() const;

  /// Seconds that this rank may wait in a collective before another one is taken for lost; 0: for ever.
  void set_patience(double seconds) { patience_ = seconds; }
  double patience() const { return patience_; }

 private:
  detail::RecordPage& page() const { return *page_.load(std::memory_order_acquire); }

  static detail::RecordPage& own_page();
  std::atomic<detail::RecordPage*> page_{&own_page()};  // a file's page is never unmapped: another thread may be in it
  std::atomic<double> patience_ = 0;
};
/// There is one.
RankRecord& rank_record();

/// A collective call of this thread, for as long as the object lives.
class InCall {
 public:
  InCall(Lane lane, Call call, std::uint64_t bytes = 0) : lane_(lane) { rank_record().begin(lane, call, bytes); }
  ~InCall() { rank_record().end(lane_); }
  InCall(const InCall&) = delete;
  InCall& operator=(const InCall&) = delete;

 private:
  Lane lane_;
};

/// Another patience for as long as the object lives.
class PatienceScope {
 public:
  explicit PatienceScope(double seconds) : before_(rank_record().patience()) { rank_record().set_patience(seconds); }
  ~PatienceScope() { rank_record().set_patience(before_); }
  PatienceScope(const PatienceScope&) = delete;
  PatienceScope& operator=(const PatienceScope&) = delete;

 private:
  double before_;
};

/// Nothing when there is no such file or it is no record.
std::optional<RankState> read_rank_record(const Path& file);

/// What has become of a process of this machine.
enum class Life {
  Runs,
  Stopped,  // by SIGSTOP or a debugger
  Gone,     // ended, or another one has its number by now
};
Life life_of(std::int64_t pid, std::uint64_t started);
/// When this process started, in the ticks of RankState::started.
std::uint64_t own_start();
/// Seconds of the clock of RankState::beat.
double monotonic_seconds();

}  // namespace divergen
