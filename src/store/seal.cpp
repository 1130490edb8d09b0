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

constexpr char kMagic[] = "DIVGSEA2", kMagicWithoutFrame[] = "DIVGSEAL", kFrameMagic[] = "DIVGFRAM";
constexpr std::size_t kPiece = 1 << 20;

struct Seal {
  char magic[8];
  std::uint64_t size, low, high;
};
static_assert(sizeof(Seal) == kSealBytes);

struct Frame {
  char magic[8];
  std::uint64_t spans, low, high;
};
static_assert(sizeof(Frame) == 32 && sizeof(Span) == 16);

std::string_view bytes_of(const std::vector<Span>& map) {
  return {reinterpret_cast<const char*>(map.data()), map.size() * sizeof(Span)};
}

/// Hashes what lies outside of the spans, shown in order.
class FrameHash {
 public:
  explicit FrameHash(const std::vector<Span>& map) : map_(map) {}
  void add(std::uint64_t at, std::string_view piece) {
    while (!piece.empty()) {
      while (next_ < map_.size() && map_[next_].begin + map_[next_].length <= at) ++next_;
      const bool is_before = next_ == map_.size() || at < map_[next_].begin;
      const std::uint64_t end = next_ == map_.size() ? at + piece.size()
                                : is_before          ? map_[next_].begin
                                                     : map_[next_].begin + map_[next_].length;
      const std::string_view part = piece.substr(0, end - at);
      if (is_before) hash_.add(part);
      at += part.size();
      piece.remove_prefix(part.size());
    }
  }
  Hash128 get() {
    hash_.add(bytes_of(map_));
    const std::uint64_t spans = map_.size();  // or the map's beginning could pass for the end of what stands before it
    hash_.add({reinterpret_cast<const char*>(&spans), sizeof spans});
    return hash_.get();
  }

 private:
  const std::vector<Span>& map_;
  std::size_t next_ = 0;
  HashStream hash_;
};

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

/// Shows `see` the bytes [at, end) of the file.
void show(int fd, std::uint64_t at, std::uint64_t end, const Path& file, const SeePiece& see) {
  std::string piece(std::min<std::uint64_t>(end - at, kPiece), '\0');
  while (at < end) {
    const std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, end - at));
    read_at(fd, piece.data(), count, at, file);
    see(at, {piece.data(), count});
    at += count;
  }
}

Seal seal_of(int fd, const Path& file) {
  Seal seal{};
  const std::uint64_t size = size_of(fd, file);
  if (size < kSealBytes) h5::damaged(file, "", "it is too short to be a table");
  read_at(fd, reinterpret_cast<char*>(&seal), sizeof seal, size - kSealBytes, file);
  if (std::memcmp(seal.magic, kMagic, sizeof seal.magic) != 0 &&
      std::memcmp(seal.magic, kMagicWithoutFrame, sizeof seal.magic) != 0)
    h5::damaged(file, "", "it does not end with its seal: it was cut off, or changed after it was written");
  if (seal.size != size - kSealBytes)
    h5::damaged(file, "", cat("it has ", size - kSealBytes, " bytes, its seal says ", seal.size));
  return seal;
}

void append(const Path& file, std::string_view bytes) {
  int fd = -1;
  do fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) fail_errno("cannot open", file.string(), errno);
  int error = 0;
  while (!bytes.empty() && error == 0) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR) error = errno;
    if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  if (::close(fd) != 0 && error == 0 && errno != EINTR) error = errno;
  if (error != 0) fail_errno("cannot write", file.string(), error);
}

/// In order, those that touch as one.
std::vector<Span> map_of(std::vector<Span> spans) {
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  std::vector<Span> out;
  for (const Span& span : spans) {
    DIVERGEN_CHECK(out.empty() || out.back().begin + out.back().length <= span.begin, span.begin);
    if (!out.empty() && out.back().begin + out.back().length == span.begin) out.back().length += span.length;
    else if (span.length > 0) out.push_back(span);
  }
  return out;
}

/// The map that stands before the frame, whose place is `at`.
std::vector<Span> read_map(int fd, const Frame& frame, std::uint64_t at, const Path& file) {
  if (std::memcmp(frame.magic, kFrameMagic, sizeof frame.magic) != 0 || frame.spans > at / sizeof(Span))
    h5::damaged(file, "", "it has no frame, and its seal says that it has one");
  std::vector<Span> map(frame.spans);
  const std::uint64_t begin = at - map.size() * sizeof(Span);
  read_at(fd, reinterpret_cast<char*>(map.data()), map.size() * sizeof(Span), begin, file);
  std::uint64_t last = 0;
  for (const Span& span : map) {
    if (span.begin < last || span.begin > begin || span.length > begin - span.begin)
      h5::damaged(file, "", "the spans of its heap lie outside of it");
    last = span.begin + span.length;
  }
  return map;
}

}  // namespace

void append_seal(const Path& file, std::vector<Span> heap, const SeePiece& see) {
  const std::vector<Span> map = map_of(std::move(heap));
  Seal seal{};
  Frame frame{};
  {
    const h5::ReadOnly content(file);
    const std::uint64_t size = size_of(content.get(), file);
    HashStream all;
    FrameHash outside(map);
    show(content.get(), 0, size, file, [&](std::uint64_t at, std::string_view piece) {
      all.add(piece);
      outside.add(at, piece);
      if (see) see(at, piece);
    });
    std::memcpy(frame.magic, kFrameMagic, sizeof frame.magic);
    frame.spans = map.size();
    const Hash128 of_frame = outside.get();
    frame.low = of_frame.low;
    frame.high = of_frame.high;
    all.add(bytes_of(map));
    all.add({reinterpret_cast<const char*>(&frame), sizeof frame});
    std::memcpy(seal.magic, kMagic, sizeof seal.magic);
    seal.size = size + bytes_of(map).size() + sizeof frame;
    const Hash128 hash = all.get();
    seal.low = hash.low;
    seal.high = hash.high;
  }
  std::string end(bytes_of(map));
  end.append(reinterpret_cast<const char*>(&frame), sizeof frame);
  end.append(reinterpret_cast<const char*>(&seal), sizeof seal);
  append(file, end);
}

void check_seal(const Path& file) {
  const h5::ReadOnly content(file);
  const Seal seal = seal_of(content.get(), file);
  HashStream all;
  show(content.get(), 0, seal.size, file, [&](std::uint64_t, std::string_view piece) { all.add(piece); });
  const Hash128 hash = all.get();
  if (hash.low != seal.low || hash.high != seal.high)
    h5::damaged(file, "", "its bytes do not have the hash of its seal");
}

void check_frame(const Path& file) {
  const h5::ReadOnly content(file);
  const Seal seal = seal_of(content.get(), file);
  if (std::memcmp(seal.magic, kMagic, sizeof seal.magic) != 0) return;
  Frame frame{};
  if (seal.size < sizeof frame) h5::damaged(file, "", "it is too short to be a table");
  const std::uint64_t at = seal.size - sizeof frame;
  read_at(content.get(), reinterpret_cast<char*>(&frame), sizeof frame, at, file);
  const std::vector<Span> map = read_map(content.get(), frame, at, file);
  FrameHash outside(map);
  std::uint64_t begin = 0;
  const SeePiece add = [&](std::uint64_t place, std::string_view piece) { outside.add(place, piece); };
  for (const Span& span : map) {
    show(content.get(), begin, span.begin, file, add);
    begin = span.begin + span.length;
  }
  show(content.get(), begin, at - bytes_of(map).size(), file, add);
  const Hash128 hash = outside.get();
  if (hash.low != frame.low || hash.high != frame.high)
    h5::damaged(file, "", "its columns, documents or structures do not have the hash of its frame");
}

}  // namespace divergen::store
