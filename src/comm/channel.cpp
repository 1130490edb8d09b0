#include "comm/channel.hpp"

#include <cstring>
#include <exception>

#include "base/rank_record.hpp"
#include "comm/mpi_support.hpp"

namespace divergen::comm {

Channel::Channel(World& world) : rank_(world.rank()), size_(world.size()), exceptions_(std::uncaught_exceptions()) {
  if (size_ > 1) comm_ = detail::to_pointer(detail::duplicate_world());
}

Channel::~Channel() {
  if (comm_ == nullptr || std::uncaught_exceptions() > exceptions_) return;
  MPI_Comm comm = detail::to_comm(comm_);
  MPI_Comm_free(&comm);
}

namespace {
template <class T>
void noted_sum(void* comm, T* values, std::size_t count) {
  if (comm == nullptr) return;
  const InCall note(Lane::Gradients, Call::GradientSum, count * sizeof(T));
  detail::ordered_sum(detail::to_comm(comm), values, count);
}
}  // namespace

void Channel::sum(float* values, std::size_t count) { noted_sum(comm_, values, count); }
void Channel::sum(double* values, std::size_t count) { noted_sum(comm_, values, count); }
void Channel::sum(std::int32_t* values, std::size_t count) { noted_sum(comm_, values, count); }
void Channel::sum(std::int64_t* values, std::size_t count) { noted_sum(comm_, values, count); }

void Channel::broadcast(void* bytes, std::size_t count, int root) {
  if (size_ == 1) return;
  const InCall note(Lane::Gradients, Call::Broadcast, count);
  detail::broadcast_bytes(detail::to_comm(comm_), bytes, count, root);
}

void Channel::all_gather(const void* bytes, std::size_t count, void* received) {
  auto* all = static_cast<std::byte*>(received);
  std::memcpy(all + static_cast<std::size_t>(rank_) * count, bytes, count);
  // As one broadcast of each rank: any number of bytes, and what is gathered here is small and rare.
  for (int r = 0; r < size_; ++r) broadcast(all + static_cast<std::size_t>(r) * count, count, r);
}

void Channel::barrier() {
  if (size_ == 1) return;
  const InCall note(Lane::Gradients, Call::Barrier);
  detail::sleeping_barrier(detail::to_comm(comm_));
}

}  // namespace divergen::comm
