// Preloaded into a test program (LD_PRELOAD): makes the n-th system call of the thread that armed it fail, or write
// only half. Off until divergen_shim_arm() is called; counts calls from then on.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>

namespace {

struct Plan {
  bool armed = false;
  long count = 0, from = 0, times = 0;
  int error = 0;       // what to fail with; 0: nothing fails
  bool halve = false;  // writes are cut short instead
  int kind = 0;        // which calls count: 0 all, 1 those that create a file, 2 those that take room
};
thread_local Plan plan;

/// Counts the call; whether it is one that has to go wrong.
bool strikes(bool is_write = false, bool is_create = false, bool takes_room = false) {
  if (!plan.armed || (plan.kind == 1 && !is_create) || (plan.kind == 2 && !is_write && !is_create && !takes_room))
    return false;
  ++plan.count;
  if (plan.count < plan.from || plan.count >= plan.from + plan.times) return false;
  return plan.halve ? is_write : plan.error != 0;
}

template <class F>
F next(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

int fail() {
  errno = plan.error;
  return -1;
}

}  // namespace

extern "C" {

/// Calls from.. from + times - 1 (from 1) fail with `error`; with `halve`, writes among them are cut short. With
/// `kind` 1, only calls that create a file count; with 2, only those for which a disk may have no room.
void divergen_shim_arm(long from, long times, int error, int halve, int kind) {
  plan = {true, 0, from, times, error, halve != 0, kind};
}
/// How many calls there were.
long divergen_shim_disarm() {
  plan.armed = false;
  return plan.count;
}

ssize_t write(int fd, const void* from, size_t count) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  if (!strikes(true)) return real(fd, from, count);
  return plan.halve ? real(fd, from, count > 1 ? count / 2 : count) : fail();
}
ssize_t pwrite(int fd, const void* from, size_t count, off_t at) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  if (!strikes(true)) return real(fd, from, count, at);
  return plan.halve ? real(fd, from, count > 1 ? count / 2 : count, at) : fail();
}
ssize_t pwrite64(int fd, const void* from, size_t count, off64_t at) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64");
  if (!strikes(true)) return real(fd, from, count, at);
  return plan.halve ? real(fd, from, count > 1 ? count / 2 : count, at) : fail();
}
ssize_t read(int fd, void* to, size_t count) {
  static const auto real = next<ssize_t (*)(int, void*, size_t)>("read");
  return strikes() ? fail() : real(fd, to, count);
}
ssize_t pread(int fd, void* to, size_t count, off_t at) {
  static const auto real = next<ssize_t (*)(int, void*, size_t, off_t)>("pread");
  return strikes() ? fail() : real(fd, to, count, at);
}
ssize_t pread64(int fd, void* to, size_t count, off64_t at) {
  static const auto real = next<ssize_t (*)(int, void*, size_t, off64_t)>("pread64");
  return strikes() ? fail() : real(fd, to, count, at);
}
int fsync(int fd) {
  static const auto real = next<int (*)(int)>("fsync");
  return strikes(false, false, true) ? fail() : real(fd);
}
int ftruncate(int fd, off_t size) {
  static const auto real = next<int (*)(int, off_t)>("ftruncate");
  return strikes(false, false, true) ? fail() : real(fd, size);
}
int ftruncate64(int fd, off64_t size) {
  static const auto real = next<int (*)(int, off64_t)>("ftruncate64");
  return strikes(false, false, true) ? fail() : real(fd, size);
}
int rename(const char* from, const char* to) {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  return strikes() ? fail() : real(from, to);
}
/// As Linux does, the descriptor is gone all the same.
int close(int fd) {
  static const auto real = next<int (*)(int)>("close");
  if (!strikes()) return real(fd);
  real(fd);
  return fail();
}
int open(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, mode_t)>("open");
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  return strikes(false, (flags & O_CREAT) != 0) ? fail() : real(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, mode_t)>("open64");
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  return strikes(false, (flags & O_CREAT) != 0) ? fail() : real(path, flags, mode);
}

}  // extern "C"
