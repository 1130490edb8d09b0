// divergen doctor: what support asks first.

#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "driver/launch.hpp"
#include "store/table.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string folder = ".";
  bool json = false;
};

std::string first_line_of(const std::string& command) {
  std::string line;
  if (FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "r")) {
    char buffer[256];
    if (std::fgets(buffer, sizeof buffer, pipe) != nullptr) line = buffer;
    ::pclose(pipe);
  }
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  return line;
}

/// Writes, verifies, and publishes one small table where results would go.
std::string try_table(const Path& folder) {
  const Path file = folder / ".divergen-doctor.h5";
  store::Table table("divergen-doctor", 1);
  table.add<std::int32_t>("number", {1, 2, 3});
  try {
    store::write_table(table, file);
    const auto problem = store::verify_table(file);
    remove_quietly(file);
    return problem ? *problem : "ok";
  } catch (const Error& error) {
    remove_quietly(file);
    return error.what();
  }
}

int examine(const Options& o) {
  nlohmann::json out;
  utsname system{};
  if (::uname(&system) == 0) out["system"] = cat(system.sysname, " ", system.release, " ", system.machine);
  out["cores"] = std::thread::hardware_concurrency();
  out["memory"] = human_bytes(static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                              static_cast<std::uint64_t>(::sysconf(_SC_PAGE_SIZE)));
  out["mpirun"] = first_line_of("mpirun --version");
  out["slurm"] = first_line_of("sinfo --version");
  out["gpu"] = first_line_of("nvidia-smi -L");
  out["worker"] =
      std::filesystem::exists(program_folder() / "divergen-worker") ? "found" : "missing: build divergen-worker";
  struct statvfs fs {};
  if (::statvfs(o.folder.c_str(), &fs) == 0) {
    out["free_space"] = human_bytes(free_bytes(o.folder));
    out["free_inodes"] = with_thousands(static_cast<std::int64_t>(fs.f_favail));
  }
  out["hdf5_write_verify_rename"] = try_table(o.folder);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  out["clock"] = cat(std::chrono::duration_cast<std::chrono::seconds>(now).count(), " s since 1970");
  if (o.json) {
    std::cout << out.dump(2) << '\n';
  } else {
    for (const auto& [key, value] : out.items()) {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      std::cout << key << std::string(key.size() < 26 ? 26 - key.size() : 1, ' ') << (text.empty() ? "none" : text)
                << '\n';
    }
  }
  return out["hdf5_write_verify_rename"] == "ok" ? 0 : exit_code(ErrorKind::Io);
}

}  // namespace

void add_doctor_command(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("doctor", "what this machine has: MPI, Slurm, GPU, file system, space");
  auto o = std::make_shared<Options>();
  command->add_option("folder", o->folder, "where runs would be written (default: here)");
  command->add_flag("--json", o->json, "machine-readable, on stdout");
  command->callback([o, &action] { action = [o] { return examine(*o); }; });
}

}  // namespace divergen::driver
