#pragma once
// Running something in a process of its own: to measure its memory, to see it die, to watch what it asks of the system.

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/fs.hpp"

namespace divergen::test {

struct ChildOutcome {
  int signal = 0;           // that ended it; SIGSYS when it asked for something forbidden
  std::string text;         // what the body returned, or the message of what it threw
  std::uint64_t grown = 0;  // bytes of memory, pages of files included, beyond what it began with
  double seconds = 0;
};

/// From now on this process dies by SIGSYS when it starts a process, opens anything for writing, changes the file
/// system or opens a socket.
inline bool forbid_side_effects() {
  std::vector<sock_filter> program{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  const auto kill_on = [&](long number) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  };
  for (const long number : {SYS_execve, SYS_execveat, SYS_clone, SYS_socket, SYS_connect, SYS_ptrace, SYS_kill,
                            SYS_renameat2, SYS_unlinkat, SYS_mkdirat, SYS_symlinkat, SYS_linkat, SYS_fchmodat})
    kill_on(number);
#ifdef SYS_clone3
  kill_on(SYS_clone3);
#endif
#if defined(__x86_64__)
  for (const long number : {SYS_fork, SYS_vfork, SYS_creat, SYS_rename, SYS_unlink, SYS_mkdir, SYS_rmdir, SYS_symlink,
                            SYS_link, SYS_chmod, SYS_truncate})
    kill_on(number);
#endif
  const auto kill_writing = [&](long number, std::uint32_t argument) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 4));
    program.push_back(
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offsetof(seccomp_data, args)) + 8 * argument));
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC, 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  };
  kill_writing(SYS_openat, 2);
#if defined(__x86_64__)
  kill_writing(SYS_open, 1);
#endif
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog all{static_cast<unsigned short>(program.size()), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all) == 0;
}

inline std::uint64_t resident_bytes() {
  const std::string text = read_file("/proc/self/statm");
  return std::stoull(text.substr(text.find(' '))) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

/// Runs `body` in a child; with `watched` it may do nothing but compute and read. `warm_up` runs before memory is
/// counted (first use of code and of the allocator).
inline ChildOutcome in_child(const std::function<std::string()>& body, bool watched = false,
                             const std::function<void()>& warm_up = {}) {
  int ends[2];
  DIVERGEN_CHECK(::pipe(ends) == 0);
  const pid_t child = ::fork();
  DIVERGEN_CHECK(child >= 0);
  if (child == 0) {
    ::close(ends[0]);
    if (warm_up) warm_up();
    // Anonymous memory and touched pages of mapped files count alike.
    std::string text = cat(resident_bytes(), '\n');
    if (watched && !forbid_side_effects()) text += "no seccomp here";
    const auto start = std::chrono::steady_clock::now();
    try {
      text += body();
    } catch (const std::exception& error) {
      text += error.what();
    }
    text = cat(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), '\n', text);
    for (std::size_t at = 0; at < text.size();) {
      const ssize_t n = ::write(ends[1], text.data() + at, text.size() - at);
      if (n <= 0) ::_exit(1);
      at += static_cast<std::size_t>(n);
    }
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string all;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) all.append(buffer, static_cast<std::size_t>(n));
  ::close(ends[0]);
  int status = 0;
  rusage usage{};
  DIVERGEN_CHECK(::wait4(child, &status, 0, &usage) == child);
  ChildOutcome out;
  if (WIFSIGNALED(status)) out.signal = WTERMSIG(status);
  const auto first = all.find('\n'), second = all.find('\n', first + 1);
  if (second == std::string::npos) return out;
  out.seconds = std::stod(all.substr(0, first));
  const std::uint64_t before = std::stoull(all.substr(first + 1, second - first - 1));
  const std::uint64_t peak = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  out.grown = peak > before ? peak - before : 0;
  out.text = all.substr(second + 1);
  return out;
}

/// Whether memory can be measured: sanitizers keep shadows and freed blocks.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kMeasuresMemory = false;
#else
inline constexpr bool kMeasuresMemory = true;
#endif

}  // namespace divergen::test
