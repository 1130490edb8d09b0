#include "base/leftovers.hpp"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>

#include "base/clock.hpp"

namespace divergen {
namespace {

/// The host's name as Open MPI writes it: without its domain, unless it was told to keep that.
std::set<std::string> host_names() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return {};
  const std::string whole = name;
  return {whole, whole.substr(0, whole.find('.'))};
}

bool is_own(const Path& path, double young_seconds) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0 || info.st_uid != ::geteuid()) return false;
  return epoch_seconds() - static_cast<double>(info.st_mtim.tv_sec) >= young_seconds;
}

/// The files below `folder` that processes have mapped. Those of other users cannot be looked at, and have no part in
/// this user's segments.
std::set<std::string> mapped_files(const std::string& folder) {
  std::set<std::string> out;
  std::error_code ignored;
  for (const auto& process : std::filesystem::directory_iterator("/proc", ignored)) {
    if (process.path().filename().string().find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream maps(process.path() / "maps");
    for (std::string line; std::getline(maps, line);)
      if (const auto at = line.find(" " + folder + "/"); at != std::string::npos)
        out.insert(line.substr(at + 1, line.find(' ', at + 1) - at - 1));
  }
  return out;
}

std::size_t sweep_segments(const Path& folder, double young_seconds) {
  std::set<std::string> old;
  std::error_code ignored;
  for (const std::string& host : host_names()) {
    const std::string prefix = "vader_segment." + host + "." + std::to_string(::geteuid()) + ".";
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
      if (entry.path().filename().string().starts_with(prefix) && is_own(entry.path(), young_seconds))
        old.insert(entry.path().string());
  }
  if (old.empty()) return 0;
  const std::set<std::string> mapped = mapped_files(folder.string());
  std::size_t swept = 0;
  for (const std::string& file : old)
    if (!mapped.contains(file)) swept += std::filesystem::remove(file, ignored);
  return swept;
}

std::size_t sweep_sessions(const Path& temporary) {
  std::size_t swept = 0;
  std::error_code ignored;
  for (const std::string& host : host_names()) {
    const Path sessions = temporary / ("ompi." + host + "." + std::to_string(::geteuid()));
    for (const auto& entry : std::filesystem::directory_iterator(sessions, ignored)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with("pid.") || !is_own(entry.path(), 0)) continue;
      const long launcher = std::strtol(name.c_str() + 4, nullptr, 10);
      if (launcher <= 0 || ::kill(static_cast<pid_t>(launcher), 0) == 0 || errno != ESRCH) continue;
      std::filesystem::remove_all(entry.path(), ignored);
      ++swept;
    }
  }
  return swept;
}

}  // namespace

Leftovers sweep_leftovers(const Path& shared_memory, const Path& temporary, double young_seconds) {
  return {sweep_segments(shared_memory, young_seconds), sweep_sessions(temporary)};
}

Leftovers sweep_leftovers(double young_seconds) {
  // The order in which Open MPI 4 looks for it (opal_tmp_directory).
  for (const char* name : {"TMPDIR", "TEMP", "TMP"})
    if (const char* folder = std::getenv(name); folder != nullptr && *folder != '\0')
      return sweep_leftovers("/dev/shm", folder, young_seconds);
  return sweep_leftovers("/dev/shm", "/tmp", young_seconds);
}

}  // namespace divergen
