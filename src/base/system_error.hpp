#pragma once
// Errors of system calls keep their number, so that those that pass by themselves can be told from those that stay.

#include <functional>

#include "base/error.hpp"

namespace divergen {

/// What fail_errno() throws.
class SystemError : public Error {
 public:
  SystemError(ErrorKind kind, ErrorText text, int number, std::source_location where = std::source_location::current())
      : Error(kind, std::move(text), where), number_(number) {}
  int number() const { return number_; }

 private:
  int number_ = 0;
};

/// Whether trying again may help: EIO, ESTALE, EAGAIN, EBUSY, EINTR, ETIMEDOUT, ENETDOWN, ENETUNREACH, ECONNRESET,
/// ENOLCK. A full device, a missing file or missing rights do not pass by themselves.
bool is_transient(int error_number);

inline constexpr int kRetries = 3;

/// Runs `work`, again after 50, 200 and 800 ms when it fails with a transient SystemError, each time with a warning
/// that names `what`. The last failure is the caller's. `work` must be repeatable from its start.
void with_retries(const std::string& what, const std::function<void()>& work);

}  // namespace divergen
