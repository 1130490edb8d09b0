#include "comm/node_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/error.hpp"
#include "comm/mpi_support.hpp"

namespace divergen::comm {
namespace {

/// What the filler tells the others of its node.
struct Address {
  std::int64_t process = 0, descriptor = -1;
  std::uint64_t size = 0;
};

Address broadcast_on_node(const World& world, Address address, int group) {
  MPI_Comm node = MPI_COMM_NULL;
  detail::check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, world.rank(), MPI_INFO_NULL, &node),
                "share memory");
  if (group > 0) {
    MPI_Comm part = MPI_COMM_NULL;
    detail::check(MPI_Comm_split(node, world.local_rank() / group, world.rank(), &part), "share memory");
    detail::check(MPI_Comm_free(&node), "share memory");
    node = part;
  }
  detail::broadcast_bytes(node, &address, sizeof address, 0);
  detail::check(MPI_Comm_free(&node), "share memory");
  return address;
}

}  // namespace

NodeMemory::NodeMemory(World& world, std::size_t bytes, Access access, int group)
    : is_filler_(world.local_rank() % (group > 0 ? group : world.local_size()) == 0) {
  const bool writes = is_filler_ || access == Access::All;
  Address address;
  int descriptor = -1;
  world.together([&] {
    if (!is_filler_) return;
    descriptor = ::memfd_create("divergen-node", MFD_CLOEXEC);
    if (descriptor < 0 || ::ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) {
      const int problem = errno;
      if (descriptor >= 0) ::close(descriptor);
      fail_errno("cannot make memory that ranks share", cat(bytes, " bytes"), problem);
    }
    address = {::getpid(), descriptor, bytes};
  });
  address = broadcast_on_node(world, address, group);
  size_ = address.size;
  world.together([&] {
    if (!is_filler_) {
      const std::string path = cat("/proc/", address.process, "/fd/", address.descriptor);
      descriptor = ::open(path.c_str(), (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
      if (descriptor < 0) fail_errno("cannot open the memory that ranks share", path, errno);
    }
    if (size_ == 0) return;
    void* place = ::mmap(nullptr, size_, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, descriptor, 0);
    if (place == MAP_FAILED) fail_errno("cannot map the memory that ranks share", cat(size_, " bytes"), errno);
    data_ = static_cast<std::byte*>(place);
  });
  ::close(descriptor);  // all have opened it: the second together() came back
}

NodeMemory::~NodeMemory() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

NodeMemory::NodeMemory(NodeMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(other.size_), is_filler_(other.is_filler_) {}

}  // namespace divergen::comm
