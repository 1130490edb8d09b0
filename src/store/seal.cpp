#include "store/seal.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.hpp"
#include "base/hash_stream.hpp"
#include "store/h5_reader.hpp"

namespace divergen::store {
namespace {

constexpr char kMagic[] = "DIVGSEAL";
constexpr std::size_t kPiece = 1 << 20;

struct Seal {
  char magic[8];
  std::uint64_t size, low, high;
};
static_assert(sizeof(Seal) == kSealBytes);

std::uint64_t size_of(int fd, const Path& file) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) fail_errno("cannot stat", file.string(), errno);
  return static_cast<std::uint64_t>(info.st_size);
}

/// Bytes [at, at + count). Not mapped: a disk that fails under a mapping ends the process.
void read_at(int fd, char* to, std::size_t count, std::uint64_t at, const Path& file) {
  while (count > 0) {
    const ssize_t n = ::pread(fd, to, count, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("cannot read", file.string(), errno);
    if (n == 0) h5::damaged(file, "", "it became shorter while it was read");
    to += n;
    at += static_cast<std::uint64_t>(n);
    count -= static_cast<std::size_t>(n);
  }
}

Hash128 hash_of(int fd, std::uint64_t size, const Path& file, const SeePiece& see = {}) {
  HashStream hash;
  std::string piece(std::min<std::uint64_t>(size, kPiece), '\0');
  for (std::uint64_t at = 0; at < size; at += kPiece) {
    const std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, size - at));
    read_at(fd, piece.data(), count, at, file);
    hash.add({piece.data(), count});
    if (see) see(at, {piece.data(), count});
  }
  return hash.get();
}

Seal seal_of(int fd, const Path& file) {
  Seal seal{};
  const std::uint64_t size = size_of(fd, file);
  if (size < kSealBytes) h5::damaged(file, "", "it is too short to be a table");
  read_at(fd, reinterpret_cast<char*>(&seal), sizeof seal, size - kSealBytes, file);
  if (std::memcmp(seal.magic, kMagic, sizeof seal.magic) != 0)
    h5::damaged(file, "", "it does not end with its seal: it was cut off, or changed after it was written");
  if (seal.size != size - kSealBytes)
    h5::damaged(file, "", cat("it has ", size - kSealBytes, " bytes, its seal says ", seal.size));
  return seal;
}

}  // namespace

void append_seal(const Path& file, const SeePiece& see) {
  Seal seal{};
  {
    const h5::ReadOnly content(file);
    seal.size = size_of(content.get(), file);
    const Hash128 hash = hash_of(content.get(), seal.size, file, see);
    std::memcpy(seal.magic, kMagic, sizeof seal.magic);
    seal.low = hash.low;
    seal.high = hash.high;
  }
  int fd = -1;
  do fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) fail_errno("cannot open", file.string(), errno);
  const char* from = reinterpret_cast<const char*>(&seal);
  std::size_t left = sizeof seal;
  int error = 0;
  while (left > 0 && error == 0) {
    const ssize_t n = ::write(fd, from, left);
    if (n < 0 && errno != EINTR) error = errno;
    if (n > 0) {
      from += n;
      left -= static_cast<std::size_t>(n);
    }
  }
  if (::close(fd) != 0 && error == 0 && errno != EINTR) error = errno;
  if (error != 0) fail_errno("cannot write", file.string(), error);
}

void check_seal(const Path& file) {
  const h5::ReadOnly content(file);
  const Seal seal = seal_of(content.get(), file);
  const Hash128 hash = hash_of(content.get(), seal.size, file);
  if (hash.low != seal.low || hash.high != seal.high)
    h5::damaged(file, "", "its bytes do not have the hash of its seal");
}

void check_seal_size(const Path& file) { seal_of(h5::ReadOnly(file).get(), file); }

}  // namespace divergen::store
