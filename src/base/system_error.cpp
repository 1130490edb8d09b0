#include "base/system_error.hpp"

#include <cerrno>
#include <chrono>
#include <thread>

#include "base/log.hpp"

namespace divergen {

bool is_transient(int error_number) {
  switch (error_number) {
    case EIO:
    case ESTALE:
    case EAGAIN:
    case EBUSY:
    case EINTR:
    case ETIMEDOUT:
    case ENETDOWN:
    case ENETUNREACH:
    case ECONNRESET:
    case ENOLCK:
      return true;
    default:
      return false;
  }
}

void with_retries(const std::string& what, const std::function<void()>& work) {
  std::chrono::milliseconds pause(50);
  for (int left = kRetries;; --left, pause *= 4) {
    try {
      return work();
    } catch (const SystemError& error) {
      if (left == 0 || !is_transient(error.number())) throw;
      log::warn(what, ": ", error.text().what, " (", error.text().object, ": ", error.text().why, "); trying again in ",
                pause.count(), " ms");
    }
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace divergen
