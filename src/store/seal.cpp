#include "store/seal.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "store/h5_reader.hpp"

namespace divergen::store {
namespace {

constexpr char kMagic[] = "DIVGSEAL";

struct Seal {
  char magic[8];
  std::uint64_t size, low, high;
};
static_assert(sizeof(Seal) == kSealBytes);

/// A file mapped for reading.
class Mapped {
 public:
  explicit Mapped(const Path& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail_errno("cannot open", path.string(), errno);
    struct stat info {};
    if (::fstat(fd, &info) != 0) {
      const int error = errno;
      ::close(fd);
      fail_errno("cannot stat", path.string(), error);
    }
    size_ = static_cast<std::size_t>(info.st_size);
    if (size_ > 0) map_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    ::close(fd);
    if (map_ == MAP_FAILED) fail_errno("cannot map", path.string(), error);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() {
    if (map_ != nullptr && map_ != MAP_FAILED) ::munmap(map_, size_);
  }
  std::string_view bytes() const { return {static_cast<const char*>(map_), size_}; }

 private:
  void* map_ = nullptr;
  std::size_t size_ = 0;
};

Seal seal_of(std::string_view bytes, const Path& file) {
  Seal seal{};
  if (bytes.size() < kSealBytes) h5::damaged(file, "", "it is too short to be a table");
  std::memcpy(&seal, bytes.data() + bytes.size() - kSealBytes, sizeof seal);
  if (std::memcmp(seal.magic, kMagic, sizeof seal.magic) != 0)
    h5::damaged(file, "", "it does not end with its seal: it was cut off, or changed after it was written");
  if (seal.size != bytes.size() - kSealBytes)
    h5::damaged(file, "", cat("it has ", bytes.size() - kSealBytes, " bytes, its seal says ", seal.size));
  return seal;
}

}  // namespace

void append_seal(const Path& file) {
  Seal seal{};
  {
    const Mapped content(file);
    const Hash128 hash = hash128(content.bytes());
    std::memcpy(seal.magic, kMagic, sizeof seal.magic);
    seal.size = content.bytes().size();
    seal.low = hash.low;
    seal.high = hash.high;
  }
  const int fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd < 0) fail_errno("cannot open", file.string(), errno);
  const ssize_t written = ::write(fd, &seal, sizeof seal);
  const int error = written < 0 ? errno : ENOSPC;  // a short write to a file means that the room ran out
  if (::close(fd) != 0 && written == sizeof seal) fail_errno("cannot close", file.string(), errno);
  if (written != sizeof seal) fail_errno("cannot write", file.string(), error);
}

void check_seal(const Path& file) {
  const Mapped content(file);
  const Seal seal = seal_of(content.bytes(), file);
  const Hash128 hash = hash128(content.bytes().substr(0, content.bytes().size() - kSealBytes));
  if (hash.low != seal.low || hash.high != seal.high)
    h5::damaged(file, "", "its bytes do not have the hash of its seal");
}

void check_seal_size(const Path& file) { seal_of(Mapped(file).bytes(), file); }

}  // namespace divergen::store
