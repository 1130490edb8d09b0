// divergen doctor: what support asks first.

#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "driver/commands.hpp"
#include "driver/doctor_checks.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string folder = ".";
  bool json = false;
};

int examine(const Options& o) {
  std::vector<Finding> all;
  for (auto& group : {check_machine(), check_launchers(), check_gpus(), check_folder(o.folder)})
    all.insert(all.end(), group.begin(), group.end());
  bool is_fatal = false;
  nlohmann::json out{{"advice", nlohmann::json::object()}};
  for (const Finding& finding : all) {
    is_fatal = is_fatal || finding.is_fatal;
    out[finding.name] = finding.value;
    if (!finding.advice.empty()) out["advice"][finding.name] = finding.advice;
  }
  if (o.json) {
    std::cout << out.dump(2) << '\n';
  } else {
    constexpr std::size_t kWidth = 26;
    for (const Finding& finding : all) {
      const std::string name = finding.name;
      std::cout << name << std::string(name.size() < kWidth ? kWidth - name.size() : 1, ' ') << finding.value << '\n';
      if (!finding.advice.empty()) std::cout << (finding.is_fatal ? "  error: " : "  note: ") << finding.advice << '\n';
    }
  }
  return is_fatal ? exit_code(ErrorKind::Io) : 0;
}

}  // namespace

void add_doctor_command(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("doctor",
                                     "what this machine has and how it is set up: MPI, PMIx, Slurm, GPUs, NCCL, file "
                                     "system, space, clock, limits\n\nExample: divergen doctor /scratch/me");
  auto o = std::make_shared<Options>();
  command->add_option("folder", o->folder, "where runs would be written (default: here)");
  command->add_flag("--json", o->json, "machine-readable, on stdout");
  command->callback([o, &action] { action = [o] { return examine(*o); }; });
}

}  // namespace divergen::driver
