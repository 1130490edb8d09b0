// Preloaded into a test program (LD_PRELOAD): a wall clock that can be set, as an administrator, a time server or a
// wrong time zone would. The monotonic clock stays what it is. Off until divergen_clock_set() is called.

#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

#include <atomic>

namespace {

std::atomic<long> offset{0};  // seconds

template <class F>
F next(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

/// From now on the wall clock is so many seconds off.
void divergen_clock_set(long seconds) { offset = seconds; }

int clock_gettime(clockid_t clock, struct timespec* out) {
  static const auto real = next<int (*)(clockid_t, struct timespec*)>("clock_gettime");
  const int code = real(clock, out);
  if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += offset;
  return code;
}
int gettimeofday(struct timeval* out, void* zone) {
  static const auto real = next<int (*)(struct timeval*, void*)>("gettimeofday");
  const int code = real(out, zone);
  if (code == 0) out->tv_sec += offset;
  return code;
}
time_t time(time_t* out) {
  struct timespec now {};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
