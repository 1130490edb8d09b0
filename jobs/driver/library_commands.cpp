// divergen inspect, verify, repair, reproduce: what is in a library or a weight file, and whether a run's tables are
// whole.

#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "driver/launch.hpp"
#include "driver/weight_facts.hpp"
#include "image/image.hpp"
#include "store/inspect.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::string path, sheet, prefix;
  bool json = false, keys = false;
  std::vector<std::string> items, overrides;  // of reproduce
  std::int64_t count = 0, ranks = 1;
};

/// A run directory's library, or the folder itself.
Path library_folder(const std::string& given) {
  const Path pool = Path(given) / "pool";
  return std::filesystem::exists(pool / "index.h5") ? pool : Path(given);
}

int inspect(const Options& o) {
  if (is_weights(o.path)) {
    if (!o.sheet.empty())
      fail(ErrorKind::Usage, {"there is no contact sheet of a weight file", o.path, "", "name a library or a run"});
    return inspect_weights(o.path, o.prefix, o.keys, o.json);
  }
  const nlohmann::json facts = store::inspect_library(library_folder(o.path));
  if (!o.sheet.empty()) {
    const store::Library library(library_folder(o.path));
    write_file_atomic(o.sheet, image::encode_png(store::contact_sheet(library), 6));
    log::info("contact sheet: ", o.sheet);
  }
  if (o.json) {
    std::cout << facts.dump(2) << '\n';
  } else {
    for (const auto& [key, value] : facts.items())
      if (!value.is_array() && !value.is_object())
        std::cout << key << std::string(key.size() < 22 ? 22 - key.size() : 1, ' ')
                  << (value.is_string() ? value.get<std::string>() : value.dump()) << '\n';
  }
  return 0;
}

int verify(const Options& o) {
  const store::RunReport report = store::verify_run(o.path);
  if (o.json) std::cout << report.to_json().dump(2) << '\n';
  for (const auto& problem : report.problems)
    log::error(problem.file.string(), problem.row ? cat(" row ", *problem.row) : "",
               problem.column.empty() ? "" : cat(" column ", problem.column), ": ", problem.why);
  log::info(with_thousands(report.rows), " rows in ", report.files, " files checked, ", report.problems.size(),
            " problems", report.leftovers > 0 ? cat(", ", report.leftovers, " left-over parts (harmless)") : "");
  if (report.problems.empty()) return 0;
  log::info("to make exactly these again: divergen repair ", o.path, ", then run the same configuration again");
  return exit_code(ErrorKind::Data);
}

int repair(const Options& o) {
  const RunLock lock(o.path);
  const auto removed = store::repair_run(o.path, store::verify_run(o.path));
  for (const store::Repaired& one : removed)
    log::info("removed ", one.file.string(),
              one.rows == 0 ? "" : cat(": ", one.kept, " of its ", one.rows, " rows are kept"));
  log::info(removed.empty() ? "nothing is bad" : "run the same configuration again to make them anew");
  return 0;
}

int reproduce(const Options& o) {
  const Path config = Path(o.path) / "config.toml";
  if (!std::filesystem::exists(config))
    fail(ErrorKind::Usage,
         {"this is not a run directory", o.path, "it holds no config.toml", "name the folder of a run"});
  Launch launch;
  launch.ranks = static_cast<int>(o.ranks);
  launch.threads_per_rank = static_cast<int>(config::read_run_config(config).run.threads_per_rank);
  launch.worker_args = {"reproduce", config.string(), "--set", cat("run.dir=", o.path)};
  for (const std::string& set : o.overrides) launch.worker_args.insert(launch.worker_args.end(), {"--set", set});
  for (const std::string& item : o.items) launch.worker_args.insert(launch.worker_args.end(), {"--item", item});
  if (o.count > 0) launch.worker_args.insert(launch.worker_args.end(), {"--count", std::to_string(o.count)});
  return run(launch);
}

}  // namespace

void add_library_commands(CLI::App& app, Action& action) {
  auto o = std::make_shared<Options>();
  auto* show = app.add_subcommand("inspect",
                                  "what is in a library, a run or a weight file\n\n"
                                  "Example: divergen inspect runs/mini --contact-sheet sheet.png\n"
                                  "         divergen inspect model_final.pth --prefix model_ema.module. --keys");
  show->add_option("path", o->path, "folder of a library or a run; weight file, index of shards or their folder")
      ->required();
  show->add_option("--contact-sheet", o->sheet, "write a PNG of its instances");
  show->add_flag("--keys", o->keys, "of weights: every name, shape and type");
  show->add_option("--prefix", o->prefix, "of weights: only names that begin so, without it");
  show->add_flag("--json", o->json, "machine-readable, on stdout");
  show->callback([o, &action] { action = [o] { return inspect(*o); }; });
  auto* check = app.add_subcommand("verify", "checks every record of a run or a library");
  check->add_option("path", o->path, "run directory or library")->required();
  check->add_flag("--json", o->json, "machine-readable, on stdout");
  check->callback([o, &action] { action = [o] { return verify(*o); }; });
  auto* again =
      app.add_subcommand("reproduce",
                         "makes instances again from what is recorded of them, and compares; exit code 0 when "
                         "equal, 65 when not\n\nExample: divergen reproduce runs/mini 00c3a1b2d4e5f607");
  again->add_option("run", o->path, "run directory")->required();
  again->add_option("instance", o->items, "ids, 16 hex digits each");
  again->add_option("--count", o->count, "without ids: so many, spread evenly over the library")
      ->check(CLI::PositiveNumber);
  again->add_option("--ranks", o->ranks, "MPI ranks")->check(CLI::PositiveNumber);
  again->add_option("--set", o->overrides, "section.key=value, over the run's configuration")->take_all();
  again->callback([o, &action] { action = [o] { return reproduce(*o); }; });
  auto* mend = app.add_subcommand(
      "repair", "removes what is bad, keeping the rows that verify, so that the stages make exactly the others again");
  mend->add_option("path", o->path, "run directory")->required();
  mend->callback([o, &action] { action = [o] { return repair(*o); }; });
}

}  // namespace divergen::driver
