#pragma once
// Logging behind one small header: spdlog (and its fmt) stays inside log.cpp, because LibTorch brings another fmt.

#include <string>
#include <string_view>

#include "base/error.hpp"

namespace divergen::log {

enum class Level { Debug, Info, Warn, Error };

struct Options {
  int rank = 0;               // shown in every line of the file; ranks other than 0 are silent on stderr below Warn
  std::string file;           // appended to, empty: none
  Level level = Level::Info;  // lines below this level are dropped
};

/// Sets where lines go. Call once per process, before threads start. Without it, lines of level Info and above go to
/// stderr.
void init(const Options& options);
void write(Level level, std::string_view line);
void flush();
bool enabled(Level level);

template <class... Args>
void debug(const Args&... args) {
  if (enabled(Level::Debug)) write(Level::Debug, cat(args...));
}
template <class... Args>
void info(const Args&... args) {
  if (enabled(Level::Info)) write(Level::Info, cat(args...));
}
template <class... Args>
void warn(const Args&... args) {
  write(Level::Warn, cat(args...));
}
template <class... Args>
void error(const Args&... args) {
  write(Level::Error, cat(args...));
}

}  // namespace divergen::log
