// divergen status RUN: which stages are done, and what each made.

#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "stages/common/run_directory.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string run;
  bool json = false;
};

std::size_t count_shards(const Path& folder) {
  std::size_t n = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    if (entry.path().extension() == ".h5" && entry.path().filename().string().starts_with("shard-")) ++n;
  return n;
}

std::string newest_checkpoint(const Path& training) {
  std::string newest;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(training / "checkpoints", ignored))
    newest = std::max(newest, entry.path().filename().string());
  return newest;
}

int status(const Options& o) {
  const stages::RunDirectory dir(o.run);
  if (!std::filesystem::exists(dir.config()))
    fail(ErrorKind::Usage,
         {"this is not a run directory", o.run, "it holds no config.toml", "name the folder of a run"});
  nlohmann::json out{{"run", o.run}, {"stages", nlohmann::json::object()}, {"shards", nlohmann::json::object()}};
  for (const auto& record : stages::read_records(dir))
    out["stages"][record.stage] = {{"seconds", record.seconds}, {"items", record.items}, {"rejected", record.rejected}};
  for (const char* stage : {"generate", "annotate", "filter", "pool"})
    out["shards"][stage] = count_shards(dir.root() / stage);
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(dir.root() / "train", ignored))
    out["checkpoints"][entry.path().filename().string()] = newest_checkpoint(entry.path());
  if (o.json) {
    std::cout << out.dump(2) << '\n';
    return 0;
  }
  for (const auto& [name, s] : out["stages"].items())
    std::cout << name << std::string(name.size() < 24 ? 24 - name.size() : 1, ' ') << "done   "
              << with_thousands(s["items"]) << " items in " << human_seconds(s["seconds"]) << '\n';
  for (const auto& [name, n] : out["shards"].items())
    if (n.get<std::size_t>() > 0 && !out["stages"].contains(name))
      std::cout << name << std::string(name.size() < 24 ? 24 - name.size() : 1, ' ') << "open   " << n << " shards\n";
  if (out.contains("checkpoints"))
    for (const auto& [name, checkpoint] : out["checkpoints"].items())
      if (!out["stages"].contains("train." + name))
        std::cout << "train." << name << "   open   last checkpoint " << checkpoint.get<std::string>() << '\n';
  return 0;
}

}  // namespace

void add_status_command(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("status", "which stages of a run are done\n\nExample: divergen status runs/mini");
  auto o = std::make_shared<Options>();
  command->add_option("run", o->run, "run directory")->required();
  command->add_flag("--json", o->json, "machine-readable, on stdout");
  command->callback([o, &action] { action = [o] { return status(*o); }; });
}

}  // namespace divergen::driver
