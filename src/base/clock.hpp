#pragma once
// The wall clock, for records and journals; durations are measured with std::chrono::steady_clock.

#include <chrono>

namespace divergen {

/// Seconds since 1970.
inline double epoch_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace divergen
