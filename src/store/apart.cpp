#include "store/apart.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <mutex>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/text.hpp"
#include "store/h5.hpp"

namespace divergen::store {
namespace {

constexpr char kText = 'T', kError = 'E';
constexpr std::uint64_t kRoom = std::uint64_t{2} << 30;  // beside some copies of the file

/// A crash here is an answer: no handler of the parent's speaks of it, and no core is left. Memory is bounded: a
/// damaged size has made HDF5 ask for 4 GB (found by fuzz.store), and the system would end whom it likes for that.
void expect_the_worst(std::uint64_t file_size) {
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM}) ::signal(signal, SIG_DFL);
  // Whether to stop is the parent's to decide: a copy that was asked to would pass for one that crashed.
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) ::signal(signal, SIG_IGN);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit memory{};
  if (pages == 0 || ::getrlimit(RLIMIT_AS, &memory) != 0) return;
  const rlim_t most = pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) + kRoom + 8 * file_size;
  if (memory.rlim_cur == RLIM_INFINITY || memory.rlim_cur > most) memory.rlim_cur = most;
  ::setrlimit(RLIMIT_AS, &memory);
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

std::string read_all(int fd, const Path& file) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;  // a signal must not make a damaged file pass for a whole one
    if (n < 0) fail_errno("cannot read what was found in", file.string(), errno);
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
  }
}

std::string to_text(const Error& error) {
  const ErrorText& text = error.text();
  return cat(kError, static_cast<int>(error.kind()), '\0', text.what, '\0', text.object, '\0', text.why, '\0',
             text.remedy);
}

[[noreturn]] void throw_from(const std::string& answer) {
  const std::vector<std::string> parts = split(answer.substr(1), '\0');
  DIVERGEN_CHECK(parts.size() == 5, answer);
  fail(static_cast<ErrorKind>(std::stoi(parts[0])), {parts[1], parts[2], parts[3], parts[4]});
}

[[noreturn]] void answer_and_end(int fd, std::uint64_t file_size, const std::function<std::string()>& work) {
  bool is_told = false;
  try {
    expect_the_worst(file_size);
    std::string answer;
    try {
      answer = kText + work();
    } catch (const Error& error) {
      answer = to_text(error);
    }
    is_told = write_all(fd, answer);
  } catch (...) {  // no memory, or a library's own exception: as a crash
  }
  ::_exit(is_told ? 0 : 1);
}

class Pipe {
 public:
  explicit Pipe(const Path& file) {
    if (::pipe(ends_) != 0) fail_errno("cannot make a pipe for", file.string(), errno);
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int operator[](int end) const { return ends_[end]; }
  void close_end(int end) {
    if (ends_[end] >= 0) ::close(ends_[end]);
    ends_[end] = -1;
  }

 private:
  int ends_[2] = {-1, -1};
};

}  // namespace

std::optional<std::string> run_apart(const Path& file, const std::function<std::string()>& work) {
  std::error_code unknown;
  const std::uint64_t size = std::filesystem::file_size(file, unknown);
  Pipe pipe(file);
  pid_t child = -1;
  {
    // No other thread is within HDF5 when the process is copied.
    const std::lock_guard<std::mutex> lock(h5::library_mutex());
    child = ::fork();
  }
  if (child < 0) fail_errno("cannot start a process to look at", file.string(), errno);
  if (child == 0) answer_and_end(pipe[1], unknown ? 0 : size, work);
  pipe.close_end(1);
  const std::string answer = read_all(pipe[0], file);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || answer.empty()) return std::nullopt;
  if (answer[0] == kError) throw_from(answer);
  return answer.substr(1);
}

}  // namespace divergen::store
