#include "base/error.hpp"

#include <cerrno>
#include <cstring>

#include "base/system_error.hpp"

namespace divergen {
namespace {

std::string compose(ErrorKind kind, const ErrorText& text, const std::source_location& where) {
  std::string out = text.what;
  if (!text.object.empty()) out += ": " + text.object;
  if (!text.why.empty()) out += "\n  because: " + text.why;
  if (!text.remedy.empty()) out += "\n  to mend it: " + text.remedy;
  if (kind == ErrorKind::Bug) out += cat("\n  at ", where.file_name(), ":", where.line());
  return out;
}

}  // namespace

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::Usage:
    case ErrorKind::Config:
      return 64;
    case ErrorKind::Data:
      return 65;
    case ErrorKind::Bug:
    case ErrorKind::Comm:
      return 70;
    case ErrorKind::Io:
    case ErrorKind::NoSpace:
      return 74;
    case ErrorKind::Stopped:
      return 75;
  }
  return 70;
}

std::string_view to_string(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::Usage:
      return "usage";
    case ErrorKind::Config:
      return "config";
    case ErrorKind::Data:
      return "data";
    case ErrorKind::Bug:
      return "bug";
    case ErrorKind::Io:
      return "I/O";
    case ErrorKind::NoSpace:
      return "no space";
    case ErrorKind::Comm:
      return "communication";
    case ErrorKind::Stopped:
      return "stopped";
  }
  return "unknown";
}

Error::Error(ErrorKind kind, ErrorText text, std::source_location where)
    : std::runtime_error(compose(kind, text, where)), kind_(kind), text_(std::move(text)), where_(where) {}

void fail(ErrorKind kind, ErrorText text, std::source_location where) { throw Error(kind, std::move(text), where); }

void fail_errno(std::string what, std::string object, int error_number, std::source_location where) {
  const bool full = error_number == ENOSPC || error_number == EDQUOT;
  throw SystemError(
      full ? ErrorKind::NoSpace : ErrorKind::Io,
      {std::move(what), std::move(object), std::strerror(error_number),
       full ? "free some space or choose another folder, then run the same command again: it continues" : ""},
      error_number, where);
}

void check_failed(const char* condition, const std::string& message, std::source_location where) {
  fail(ErrorKind::Bug,
       {"a check inside divergen failed", condition, message, "this is a bug: please report it with the log"}, where);
}

}  // namespace divergen
