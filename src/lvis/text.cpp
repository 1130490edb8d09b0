#include "lvis/text.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.hpp"

namespace divergen::lvis {
namespace {

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

class Descriptor {
 public:
  explicit Descriptor(const Path& file) : fd_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail_errno("cannot read a file", file.string(), errno);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

Text Text::map(const Path& file) {
  const Descriptor descriptor(file);
  struct stat facts {};
  if (::fstat(descriptor.get(), &facts) != 0) fail_errno("cannot read a file", file.string(), errno);
  if (!S_ISREG(facts.st_mode))
    fail(ErrorKind::Io, {"cannot read a file", file.string(), "it is not a regular file", "name a file"});
  Text out;
  out.size_ = static_cast<std::size_t>(facts.st_size);
  // One more page than the file needs, of zeros: the file is laid over the first ones.
  const std::size_t page = page_bytes(), used = (out.size_ + page - 1) / page * page;
  out.mapped_ = used + page;
  void* place = ::mmap(nullptr, out.mapped_, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) fail_errno("cannot map a file", file.string(), errno);
  out.begin_ = static_cast<const char*>(place);
  if (used > 0 && ::mmap(place, used, PROT_READ, MAP_PRIVATE | MAP_FIXED, descriptor.get(), 0) == MAP_FAILED)
    fail_errno("cannot map a file", file.string(), errno);
  return out;
}

Text Text::copy(std::string_view bytes) {
  Text out;
  char* place = new char[bytes.size() + kPadding];
  if (!bytes.empty()) std::memcpy(place, bytes.data(), bytes.size());
  std::memset(place + bytes.size(), 0, kPadding);
  out.begin_ = place;
  out.size_ = bytes.size();
  return out;
}

Text::~Text() {
  if (begin_ == nullptr) return;
  if (mapped_ > 0) ::munmap(const_cast<char*>(begin_), mapped_);
  else delete[] begin_;
}

Text::Text(Text&& other) noexcept
    : begin_(std::exchange(other.begin_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

Text& Text::operator=(Text&& other) noexcept {
  std::swap(begin_, other.begin_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

void Text::release(const char* first, const char* last) const {
  if (mapped_ == 0) return;
  const std::size_t page = page_bytes();
  const auto from = (static_cast<std::size_t>(first - begin_) + page - 1) / page * page;
  const auto to = static_cast<std::size_t>(last - begin_) / page * page;
  if (to > from) ::madvise(const_cast<char*>(begin_) + from, to - from, MADV_DONTNEED);
}

}  // namespace divergen::lvis
