#pragma once
// An own line between the ranks, for a part that communicates from a thread of its own (gradients, src/nn): what goes
// over one channel never meets what goes over another. No mpi.h here: raw buffers in, raw buffers out.

#include <cstddef>
#include <cstdint>

#include "comm/world.hpp"

namespace divergen::comm {

class Channel {
 public:
  /// Collective, from the main thread.
  explicit Channel(World& world);
  /// Collective like the constructor; while an exception is on its way it leaves the communicator to MPI's end.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // All of these are collective among the callers, in the same order on all ranks, from any one thread at a time; they
  // return when this rank's part is done, wait asleep, and throw Error(Comm). On one rank they do nothing.

  /// In place, on all ranks; every element is added up in the order of the ranks (the same bits from run to run, on
  /// all ranks, however the elements are split into calls).
  void sum(float* values, std::size_t count);
  void sum(double* values, std::size_t count);
  void sum(std::int32_t* values, std::size_t count);
  void sum(std::int64_t* values, std::size_t count);
  void broadcast(void* bytes, std::size_t count, int root);
  /// `count` bytes of each rank, by rank, into `received` (size() * count bytes). The buffers do not overlap.
  void all_gather(const void* bytes, std::size_t count, void* received);
  void barrier();

 private:
  int rank_, size_, exceptions_;
  void* comm_ = nullptr;  // none on a single rank
};

}  // namespace divergen::comm
