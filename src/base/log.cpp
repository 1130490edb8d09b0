#include "base/log.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <vector>

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace divergen::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::Debug:
      return spdlog::level::debug;
    case Level::Info:
      return spdlog::level::info;
    case Level::Warn:
      return spdlog::level::warn;
    case Level::Error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::shared_ptr<spdlog::logger> make(const Options& options) {
  const bool plain = std::getenv("NO_COLOR") != nullptr || isatty(STDERR_FILENO) == 0;
  auto console = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(plain ? spdlog::color_mode::never
                                                                             : spdlog::color_mode::automatic);
  console->set_pattern(options.rank == 0 ? "%H:%M:%S %^%L%$ %v" : cat("%H:%M:%S %^%L%$ [rank ", options.rank, "] %v"));
  console->set_level(options.rank == 0 ? to_spdlog(options.level) : spdlog::level::warn);
  std::vector<spdlog::sink_ptr> sinks{console};
  if (!options.file.empty()) {
    auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
    file->set_pattern(cat("%Y-%m-%dT%H:%M:%S.%e %L [rank ", options.rank, "] %v"));
    sinks.push_back(file);
  }
  auto logger = std::make_shared<spdlog::logger>("divergen", sinks.begin(), sinks.end());
  logger->set_level(to_spdlog(options.level));
  logger->flush_on(spdlog::level::info);
  return logger;
}

std::shared_ptr<spdlog::logger>& logger() {
  static std::shared_ptr<spdlog::logger> instance = make(Options{});
  return instance;
}

}  // namespace

void init(const Options& options) { logger() = make(options); }
void write(Level level, std::string_view line) {
  logger()->log(to_spdlog(level), spdlog::string_view_t(line.data(), line.size()));
}
void flush() { logger()->flush(); }
bool enabled(Level level) { return logger()->should_log(to_spdlog(level)); }

}  // namespace divergen::log
