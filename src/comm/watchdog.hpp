#pragma once
// A lost rank ends the job, and is named.
//
// A rank that dies, stops or hangs leaves the others in a collective call that never ends. On each rank a thread looks
// at this:
//   * a rank of the same node whose process is gone: seen within a second, whatever the others are doing;
//   * a call that lasts longer than the rank's patience (base/rank_record.hpp; train.init_timeout, train.step_timeout):
//     the records of all ranks are read, and what is stopped, silent, or has not come to the call is lost.
// The rank that sees it tells what was lost, with its last collective, and ends all ranks with exit code 70. The thread
// calls nothing of MPI but MPI_Abort: it must work when MPI does not (a World is always MPI_THREAD_MULTIPLE).
//
//   <folder>/<stage>.rank-3.heartbeat   record of rank 3; gone when its stage came to its end
//   <folder>/<stage>.lost               what was lost, as it was told; gone at the next start

#include <array>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/rank_record.hpp"
#include "comm/world.hpp"

namespace divergen::comm {

/// What a waiting rank knows of one of the ranks.
struct RankSign {
  std::optional<RankState> state;  // none: there is no record
  std::optional<Life> life;        // none: it is on another node, or cannot be seen from here
  double silence = 0;              // seconds since its last sign of life
};

/// The ranks that a rank has waited for in vain for `waited` seconds, each with the reason; the first kind there is of
///   * no process, or a stopped one; no sign of life for half the time that was waited;
///   * left the job; not come to a call that others are in.
/// Nothing when all have come: then it is not a rank that is at fault, but what connects them.
struct LostRank {
  int rank = 0;
  std::string why;
};
std::vector<LostRank> find_lost(std::span<const RankSign> ranks, int me, double waited);

class Watchdog {
 public:
  /// Collective. Warns of what the last start of the stage left behind, and begins to watch. `folder` must exist and be
  /// one that all ranks see.
  Watchdog(World& world, Path folder, std::string stage);
  /// From here on this rank is not missed.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  struct Peer {  // of the same node
    int rank = 0;
    std::int64_t pid = 0;
    std::uint64_t started = 0;
  };
  struct Wait {  // in the call of a lane
    std::uint64_t call = 0;
    double since = 0;
  };

  void find_peers();
  void watch();
  void look(double now);
  std::optional<Peer> vanished_peer() const;
  RankSign sign_of(int rank) const;
  std::string explain_wait(Lane lane, double waited) const;
  [[noreturn]] void end_job(const std::string& why);

  World& world_;
  Path folder_;
  std::string stage_;
  int exceptions_;  // that were on their way when it was made
  std::vector<Peer> peers_;
  std::array<Wait, kLanes> waits_;
  double last_look_ = 0, last_flush_ = 0, last_peers_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::thread thread_;
};

/// For who comes after a job: what it left that says that ranks were lost, or nothing when all left in order.
std::optional<std::string> last_words(const Path& folder, const std::string& stage);

}  // namespace divergen::comm
