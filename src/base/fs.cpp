#include "base/fs.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "base/error.hpp"
#include "base/fault.hpp"
#include "base/system_error.hpp"

namespace divergen {
namespace {

/// A descriptor that closes itself when an error unwinds; a commit closes it explicitly and checks the result.
class Descriptor {
 public:
  Descriptor(const Path& path, int flags, mode_t mode, const char* what) : path_(path) {
    do fd_ = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) fail_errno(what, path.string(), errno);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  void sync() {
    int result = 0;
    do result = ::fsync(fd_);
    while (result != 0 && errno == EINTR);
    if (result != 0) fail_errno("cannot flush to disk", path_.string(), errno);
  }
  void close() {
    const int fd = fd_;
    fd_ = -1;
    // After EINTR the descriptor is gone all the same on Linux; what it held is flushed by the commit's own fsync.
    if (::close(fd) != 0 && errno != EINTR) fail_errno("cannot close", path_.string(), errno);
  }

 private:
  Path path_;
  int fd_ = -1;
};

void write_all(int fd, std::string_view bytes, const Path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      fail_errno("cannot write", path.string(), errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

Path folder_of(const Path& path) { return path.has_parent_path() ? path.parent_path() : Path("."); }

}  // namespace

std::string read_file(const Path& path) {
  Descriptor file(path, O_RDONLY, 0, "cannot open");
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) fail_errno("cannot stat", path.string(), errno);
  if (S_ISDIR(info.st_mode)) fail(ErrorKind::Io, {"cannot read", path.string(), "it is a folder", "name a file"});
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t have = 0;
  while (true) {
    if (have == bytes.size()) bytes.resize(bytes.size() + 4096);  // special files report size 0
    const ssize_t n = ::read(file.get(), bytes.data() + have, bytes.size() - have);
    if (n < 0) {
      if (errno == EINTR) continue;
      fail_errno("cannot read", path.string(), errno);
    }
    if (n == 0) break;
    have += static_cast<std::size_t>(n);
  }
  bytes.resize(have);
  return bytes;
}

Path part_name(const Path& path) {
  static std::atomic<unsigned> counter{0};
  return Path(cat(path.string(), ".", ::getpid(), "-", counter++, ".part"));
}

void write_file_atomic(const Path& path, std::string_view bytes) {
  with_retries("writing " + path.string(), [&] {
    const Path part = part_name(path);
    try {
      Descriptor file(part, O_WRONLY | O_CREAT | O_EXCL, 0644, "cannot create");
      fault::reach("file.created");
      write_all(file.get(), bytes, part);
      fault::reach("file.written");
      file.close();
      commit_file(part, path);
    } catch (...) {
      remove_quietly(part);
      throw;
    }
  });
}

void commit_file(const Path& part, const Path& path) {
  try {
    fault::reach("commit.before_sync");
    Descriptor file(part, O_RDONLY, 0, "cannot reopen");
    file.sync();
    file.close();
    fault::reach("commit.synced");
    int result = 0;
    do result = ::rename(part.c_str(), path.c_str());
    while (result != 0 && errno == EINTR);
    if (result != 0) fail_errno("cannot publish", path.string(), errno);
    fault::reach("commit.renamed");
    fsync_folder(folder_of(path));
    fault::reach("commit.folder_synced");
  } catch (...) {
    remove_quietly(part);
    throw;
  }
}

void make_folder(const Path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail_errno("cannot create the folder", path.string(), error.value());
}

void fsync_folder(const Path& path) {
  Descriptor folder(path, O_RDONLY | O_DIRECTORY, 0, "cannot open the folder");
  int result = 0;
  do result = ::fsync(folder.get());
  while (result != 0 && errno == EINTR);
  // Some network file systems refuse fsync on a folder; the rename itself is atomic there.
  if (result != 0 && errno != EINVAL && errno != ENOTSUP) fail_errno("cannot flush the folder", path.string(), errno);
}

void remove_quietly(const Path& path) noexcept {
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
}

std::size_t sweep_parts(const Path& folder) {
  std::error_code error;
  std::size_t swept = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".part") continue;
    std::error_code ignored;
    std::filesystem::remove_all(entry.path(), ignored);
    ++swept;
  }
  return swept;
}

std::uint64_t free_bytes(const Path& path) {
  struct statvfs info {};
  if (::statvfs(path.c_str(), &info) != 0) fail_errno("cannot ask for free space", path.string(), errno);
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

void append_line(const Path& path, std::string_view line) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_APPEND, 0644, "cannot open");
  fault::reach("journal.append");
  std::string whole(line);
  whole += '\n';
  write_all(file.get(), whole, path);
  file.close();
}

}  // namespace divergen
