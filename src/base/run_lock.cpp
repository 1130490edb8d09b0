#include "base/run_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"

namespace divergen {
namespace {

constexpr std::chrono::seconds kHeartbeat(20);

std::string own_host() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

/// Who holds a run: three lines, "process 12", "on node7", "in job 34".
struct Holder {
  std::string process, host, job;
  static Holder of(const std::string& text) {
    const auto lines = split(text, '\n');
    const auto word = [&](std::size_t i) {
      return i < lines.size() ? lines[i].substr(std::min(lines[i].size(), lines[i].find(' ') + 1)) : std::string();
    };
    return {word(0), word(1), word(2)};
  }
  std::string text() const {
    return cat("process ", process.empty() ? "(unknown)" : process, " on ", host.empty() ? "this node" : host,
               job.empty() ? "" : " in job " + job, " holds it");
  }
};

std::string text_of_lease(const Path& file) {
  std::error_code absent;
  if (!std::filesystem::exists(file, absent)) return "";
  try {
    return read_file(file);
  } catch (const Error&) {
    return "";  // it went meanwhile
  }
}

[[noreturn]] void held(const Path& dir, const Holder& holder) {
  fail(ErrorKind::Data, {"another divergen is at work in this run directory", dir.string(), holder.text(),
                         "wait for it, stop it, or name another directory with --set run.dir=..."});
}

double seconds_of(const struct stat& info) {
  return static_cast<double>(info.st_mtim.tv_sec) + 1e-9 * static_cast<double>(info.st_mtim.tv_nsec);
}

}  // namespace

RunLock::RunLock(const Path& run_dir, double stale_seconds) : dir_(run_dir), lease_(run_dir / "run.lock") {
  const char* job = std::getenv("SLURM_JOB_ID");
  own_ = cat("process ", ::getpid(), "\non ", own_host(), "\nin ", job != nullptr ? job : "", "\nsince ",
             static_cast<std::int64_t>(epoch_seconds()), "\n");
  make_folder(dir_);
  take_flock();
  try {
    take_lease(stale_seconds);
  } catch (...) {
    ::close(std::exchange(descriptor_, -1));
    throw;
  }
  heart_ = std::thread([this] { keep_alive(); });
}

RunLock::~RunLock() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  wake_.notify_all();
  if (heart_.joinable()) heart_.join();
  if (text_of_lease(lease_) == own_) remove_quietly(lease_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RunLock::take_flock() {
  const Path file = dir_ / ".lock";
  // Not closed on exec: mpirun inherits it, so that the lock outlives a killed driver for as long as its ranks are
  // there.
  descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT, 0644);
  if (descriptor_ < 0) fail_errno("cannot open the lock of the run directory", file.string(), errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
  const int problem = errno;
  if (problem == ENOLCK || problem == ENOSYS || problem == EOPNOTSUPP) return;  // the lease alone, then
  ::close(std::exchange(descriptor_, -1));
  if (problem != EWOULDBLOCK) fail_errno("cannot lock the run directory", file.string(), problem);
  held(dir_, Holder::of(text_of_lease(lease_)));
}

void RunLock::take_lease(double stale_seconds) {
  struct stat lease {};
  if (::stat(lease_.c_str(), &lease) == 0) {
    const Holder holder = Holder::of(text_of_lease(lease_));
    struct stat now {};
    if (::futimens(descriptor_, nullptr) != 0 || ::fstat(descriptor_, &now) != 0)
      fail_errno("cannot ask for the file system's time", dir_.string(), errno);
    // The flock is ours: a holder on this node is gone.
    const bool is_here = holder.host == own_host();
    const double age = seconds_of(now) - seconds_of(lease);
    if (!is_here && age < stale_seconds) held(dir_, holder);
    if (!is_here)
      log::warn("the run was held by process ", holder.process, " on ", holder.host,
                ", which has given no sign of life for ", human_seconds(age), ": taken over");
    // Of several that see the same stale lease, one can move it away.
    const Path aside = part_name(lease_);
    if (::rename(lease_.c_str(), aside.c_str()) != 0 && errno != ENOENT)
      fail_errno("cannot take the lease over", lease_.string(), errno);
    remove_quietly(aside);
  }
  const int fd = ::open(lease_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0 && errno == EEXIST) held(dir_, Holder::of(text_of_lease(lease_)));
  if (fd < 0) fail_errno("cannot create the lease", lease_.string(), errno);
  const ssize_t written = ::write(fd, own_.data(), own_.size());
  const int number = errno;
  ::close(fd);
  if (written != static_cast<ssize_t>(own_.size())) {
    remove_quietly(lease_);
    fail_errno("cannot write the lease", lease_.string(), written < 0 ? number : ENOSPC);
  }
}

void RunLock::keep_alive() {
  // Signals are the main thread's.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kHeartbeat, [this] { return is_ending_; }))
    if (::utimensat(AT_FDCWD, lease_.c_str(), nullptr, 0) != 0)
      log::debug("the lease of the run cannot be touched: ", lease_.string());
}

}  // namespace divergen
