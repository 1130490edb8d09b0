#include "weights/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.hpp"

namespace divergen::weights {

MappedFile::MappedFile(const Path& path) : path_(path) {
  // O_NONBLOCK: opening a pipe that nobody writes to must not wait.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail_errno("cannot open the weights", path.string(), errno);
  struct stat info {};
  const int failed = ::fstat(fd, &info) == 0 ? 0 : errno;
  if (failed != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    if (failed != 0) fail_errno("cannot look at the weights", path.string(), failed);
    fail(ErrorKind::Io, {"cannot read the weights", path.string(), "it is not a file", "name a weight file"});
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  void* mapped = size == 0 ? nullptr : ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  ::close(fd);
  if (mapped == MAP_FAILED) fail_errno("cannot map the weights", path.string(), error);
  bytes_ = {static_cast<const std::byte*>(mapped), size};
  is_mapped_ = size > 0;
}

MappedFile::~MappedFile() {
  if (is_mapped_) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (!is_mapped_ || part.empty()) return;
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(part.data() + part.size());
  // Advice only: where it is refused the pages stay, which costs memory and nothing else.
  (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace divergen::weights
