#pragma once
// Memory that the ranks of one node share: one of them fills it, the others read it.
//
//   comm::NodeMemory memory(world, bytes_on_the_filler);          // collective
//   world.together([&] { if (memory.is_filler()) fill(memory.bytes()); });
//   ... memory.bytes() on all ranks ...
//
// It is an anonymous file of the filler (memfd) that the others open through /proc, not an MPI window: its end needs no
// collective call, so each rank keeps it as long as it likes, nothing is left behind by ranks that are killed, and the
// size of /dev/shm, which is 64 MB in many containers, is no limit.

#include <cstddef>
#include <span>

#include "comm/world.hpp"

namespace divergen::comm {

class NodeMemory {
 public:
  enum class Access { ReadOnly, All };  // of ranks other than the filler
  /// Collective. `bytes` counts on the first rank of each node, which is the filler. `group`: each so many neighbouring
  /// ranks of a node share, instead of all (0). Throws Error(Io | NoSpace | Comm) on all ranks alike.
  NodeMemory(World& world, std::size_t bytes, Access access = Access::ReadOnly, int group = 0);
  ~NodeMemory();
  NodeMemory(NodeMemory&& other) noexcept;
  NodeMemory& operator=(NodeMemory&&) = delete;

  bool is_filler() const { return is_filler_; }
  /// Writable on the filler alone, unless all may write (they order that among themselves).
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool is_filler_ = false;
};

}  // namespace divergen::comm
