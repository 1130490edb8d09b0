#pragma once
// What all MPI code of this folder shares. Private to src/comm: the only header that includes mpi.h.

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <thread>

#include "base/error.hpp"

namespace divergen::comm::detail {

/// Throws Error(Comm) with MPI's own words unless `code` is MPI_SUCCESS.
void check(int code, std::string_view what);

/// Waits that leave the core to others: ranks often outnumber cores, and a rank that spins steals the time of the one
/// it waits for. Yields for the first tries (an answer is often there within microseconds), then sleeps, ever longer.
class Backoff {
 public:
  explicit Backoff(std::chrono::microseconds longest = std::chrono::microseconds(1000)) : longest_(longest) {}
  void pause();
  void reset() {
    tries_ = 0;
    sleep_ = kFirstSleep;
  }

 private:
  static constexpr int kYields = 20;
  static constexpr std::chrono::microseconds kFirstSleep{20};
  std::chrono::microseconds longest_;
  std::chrono::microseconds sleep_ = kFirstSleep;
  int tries_ = 0;
};

/// Waits for a request with the pauses above. Throws Error(Comm).
void wait(MPI_Request& request, std::string_view what,
          std::chrono::microseconds longest_pause = std::chrono::microseconds(1000));

// Public headers hold a communicator as void*; its type is a pointer in one MPI and an int in another.
static_assert(sizeof(MPI_Comm) <= sizeof(void*));
inline void* to_pointer(MPI_Comm comm) {
  void* held = nullptr;
  std::memcpy(&held, &comm, sizeof(comm));
  return held;
}
inline MPI_Comm to_comm(void* held) {
  MPI_Comm comm;
  std::memcpy(&comm, &held, sizeof(comm));
  return comm;
}

/// An own communicator over all ranks. Collective; throws Error(Comm).
MPI_Comm duplicate_world();

/// Pauses of transfers that carry much data: MPI moves the pieces of a message only while it is polled.
inline constexpr std::chrono::microseconds kBusyPause{100};
/// Largest number of bytes of one MPI call: counts are ints, and scratch memory is bounded by it.
inline constexpr std::size_t kPieceBytes = std::size_t{64} << 20;

/// Adds up `values` over all ranks, in place, on all ranks. Every element is summed in the order of the ranks, whatever
/// the number of elements, the way they are split into calls, the MPI library or the placement of ranks: the same
/// bits from run to run, on all ranks. Collective over `comm`. T: float, double, std::int32_t, std::int64_t.
template <class T>
void ordered_sum(MPI_Comm comm, T* values, std::size_t count);

/// Any number of bytes, in pieces. Collective.
void broadcast_bytes(MPI_Comm comm, void* bytes, std::size_t count, int root);

void sleeping_barrier(MPI_Comm comm);

}  // namespace divergen::comm::detail
