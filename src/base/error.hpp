#pragma once
// Errors that end a run, and checks for programmers' mistakes.
//
// Three kinds of failure, three ways:
//   * it ends the run       -> throw Error through fail(): says what, on which object, why, and what to do
//   * one item is bad       -> return std::optional / a status, count it, record it, go on
//   * a programmer's error  -> DIVERGEN_CHECK, which stays on in release builds

#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace divergen {

/// Concatenates anything that has an operator<<.
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return std::move(out).str();
}

enum class ErrorKind {
  Usage,    // wrong command line                                     exit 64
  Config,   // wrong configuration file                               exit 64
  Data,     // a file or an object in it is damaged or does not fit   exit 65
  Bug,      // a check failed: a programmer's mistake                 exit 70
  Io,       // the system refused to read or write                    exit 74
  NoSpace,  // no room left on a device                               exit 74
  Comm,     // a rank was lost, or a collective timed out             exit 70
  Stopped,  // stopped early on request; run again to continue        exit 75
};

/// Exit code of a program that ends with this kind of error (sysexits.h; 75 = run again to continue).
int exit_code(ErrorKind kind);
std::string_view to_string(ErrorKind kind);

/// The four things a message must say. `why` and `remedy` may be empty only where there is nothing to say.
struct ErrorText {
  std::string what;    // what failed: "cannot read the weights"
  std::string object;  // on which file, key, row, rank
  std::string why;     // the cause: "the header says 12 bytes, the file has 8"
  std::string remedy;  // what to do: "download the file again"
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, ErrorText text, std::source_location where = std::source_location::current());
  ErrorKind kind() const { return kind_; }
  const ErrorText& text() const { return text_; }
  std::source_location where() const { return where_; }

 private:
  ErrorKind kind_;
  ErrorText text_;
  std::source_location where_;
};

[[noreturn]] void fail(ErrorKind kind, ErrorText text, std::source_location where = std::source_location::current());

/// For a failed system call: adds strerror(errno); ENOSPC and EDQUOT become ErrorKind::NoSpace.
[[noreturn]] void fail_errno(std::string what, std::string object, int error_number,
                             std::source_location where = std::source_location::current());

[[noreturn]] void check_failed(const char* condition, const std::string& message,
                               std::source_location where = std::source_location::current());

}  // namespace divergen

/// A condition that only a programmer can break. Stays on in release. Extra arguments are concatenated into the
/// message.
#define DIVERGEN_CHECK(condition, ...)                                                      \
  do {                                                                                      \
    if (!(condition)) [[unlikely]]                                                          \
      ::divergen::check_failed(#condition, ::divergen::cat("" __VA_OPT__(, ) __VA_ARGS__)); \
  } while (false)
