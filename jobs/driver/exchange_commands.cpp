// divergen export, import, merge, diff: libraries to and from other formats, and to one another.

#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "driver/commands.hpp"
#include "store/exchange/export.hpp"
#include "store/exchange/import.hpp"

namespace divergen::driver {
namespace {

struct Options {
  std::vector<std::string> from;
  std::string out, categories;
  store::ExportOptions exported;
  bool keep_first = false, json = false;
};

/// A run directory's library, or the folder itself.
Path library_folder(const std::string& given) {
  const Path pool = Path(given) / "pool";
  return std::filesystem::exists(pool / "index.h5") ? pool : Path(given);
}

int run_export(const Options& o) {
  const store::Library library(library_folder(o.from[0]));
  const store::ExportSummary summary = store::export_library(library, o.out, o.exported);
  if (o.json)
    std::cout
        << nlohmann::json{{"instances", summary.instances}, {"files", summary.files}, {"bytes", summary.bytes}}.dump(2)
        << '\n';
  log::info(with_thousands(summary.instances), " instances as ", o.exported.format, " in ", o.out, ": ",
            with_thousands(summary.files), " files, ", human_bytes(summary.bytes));
  return 0;
}

int run_import(const Options& o) {
  store::ImportOptions options;
  options.categories = o.categories;
  const store::ImportSummary summary = store::import_pool(o.from[0], o.out, options);
  if (o.json)
    std::cout << nlohmann::json{{"instances", summary.instances},
                                {"rejected", summary.rejected},
                                {"hash", summary.hash}}
                     .dump(2)
              << '\n';
  std::int64_t rejected = 0;
  for (const auto& [reason, count] : summary.rejected) rejected += count;
  log::info(with_thousands(summary.instances), " instances in ", o.out, ", ", with_thousands(rejected),
            " left out; library hash ", summary.hash);
  return 0;
}

int run_merge(const Options& o) {
  std::vector<Path> from;
  for (const std::string& one : o.from) from.push_back(library_folder(one));
  const store::MergeSummary summary = store::merge_libraries(from, o.out, o.keep_first);
  if (o.json)
    std::cout << nlohmann::json{{"instances", summary.instances},
                                {"duplicates", summary.duplicates},
                                {"conflicts", summary.conflicts},
                                {"hash", summary.hash}}
                     .dump(2)
              << '\n';
  log::info(with_thousands(summary.instances), " instances in ", o.out, ", ", with_thousands(summary.duplicates),
            " stood in more than one, ", with_thousands(summary.conflicts), " had another record before; library hash ",
            summary.hash);
  return 0;
}

constexpr std::size_t kShown = 20;  // items of each kind, where people read

void print_items(const char* what, const std::vector<std::uint64_t>& items) {
  if (items.empty()) return;
  std::cout << what << ": " << with_thousands(static_cast<std::int64_t>(items.size())) << '\n';
  for (std::size_t i = 0; i < std::min(items.size(), kShown); ++i) std::cout << "  " << to_hex(items[i]) << '\n';
  if (items.size() > kShown) std::cout << "  ...\n";
}

int run_diff(const Options& o) {
  const store::Library a(library_folder(o.from[0])), b(library_folder(o.from[1]));
  const store::LibraryDiff diff = store::diff_libraries(a, b);
  if (o.json) {
    nlohmann::json only_a = nlohmann::json::array(), only_b = only_a, changed = only_a;
    for (const auto item : diff.only_a) only_a.push_back(to_hex(item));
    for (const auto item : diff.only_b) only_b.push_back(to_hex(item));
    for (const auto& one : diff.changed) changed.push_back({{"item", to_hex(one.item)}, {"fields", one.fields}});
    std::cout << nlohmann::json{{"equal", diff.is_equal()}, {"same", diff.equal}, {"only_a", only_a},
                                {"only_b", only_b},         {"changed", changed}, {"hash_a", a.hash()},
                                {"hash_b", b.hash()}}
                     .dump(2)
              << '\n';
  } else {
    std::cout << "the same in both: " << with_thousands(diff.equal) << '\n';
    print_items("only in the first", diff.only_a);
    print_items("only in the second", diff.only_b);
    if (!diff.changed.empty())
      std::cout << "different records: " << with_thousands(static_cast<std::int64_t>(diff.changed.size())) << '\n';
    for (std::size_t i = 0; i < std::min(diff.changed.size(), kShown); ++i) {
      std::string fields;
      for (const std::string& field : diff.changed[i].fields) fields += (fields.empty() ? "" : ", ") + field;
      std::cout << "  " << to_hex(diff.changed[i].item) << "  " << fields << '\n';
    }
  }
  return diff.is_equal() ? 0 : 1;
}

}  // namespace

void add_exchange_commands(CLI::App& app, Action& action) {
  auto o = std::make_shared<Options>();
  auto* out = app.add_subcommand("export",
                                 "a library for other trainers and viewers, with Croissant and a datasheet\n\n"
                                 "Example: divergen export runs/mini --to coco --out export");
  out->add_option("library", o->from, "run directory or library")->required()->expected(1);
  out->add_option("--to", o->exported.format, "coco, lvis, png (X-Paste's pool) or webdataset")
      ->required()
      ->check(CLI::IsMember({"coco", "lvis", "png", "webdataset"}));
  out->add_option("--out", o->out, "folder to make")->required();
  out->add_option("--category", o->exported.selection.categories, "name or id; may be repeated");
  out->add_option("--generator", o->exported.selection.generators, "name; may be repeated");
  out->add_option("--min-similarity", o->exported.selection.min_similarity, "least mean CLIP cosine to real crops");
  out->add_option("--limit", o->exported.selection.limit, "at most so many, spread evenly over the rest")
      ->check(CLI::PositiveNumber);
  out->add_option("--pictures", o->exported.pictures,
                  "of coco and lvis: rgb (cut-outs with their own background) or rgba")
      ->check(CLI::IsMember({"rgb", "rgba"}));
  out->add_option("--segmentation", o->exported.segmentation, "of coco and lvis: rle (exact) or polygon")
      ->check(CLI::IsMember({"rle", "polygon"}));
  out->add_option("--name", o->exported.name, "of the data set, in its descriptions");
  out->add_option("--license", o->exported.license, "URL or text, in its descriptions");
  out->add_flag("--json", o->json, "machine-readable, on stdout");
  out->callback([o, &action] { action = [o] { return run_export(*o); }; });

  auto* in = app.add_subcommand("import",
                                "an X-Paste or DiverGen pool as a library\n\n"
                                "Example: divergen import LVIS_instance_pools.json --out library");
  in->add_option("pool", o->from, "the pool's JSON, or the folder that holds it")->required()->expected(1);
  in->add_option("--out", o->out, "folder of the library to make")->required();
  in->add_option("--categories", o->categories, "JSON with id, name and frequency of the categories");
  in->add_flag("--json", o->json, "machine-readable, on stdout");
  in->callback([o, &action] { action = [o] { return run_import(*o); }; });

  auto* merge = app.add_subcommand("merge",
                                   "several libraries as one; what stands in more than one is taken once\n\n"
                                   "Example: divergen merge runs/a runs/b --out library");
  merge->add_option("libraries", o->from, "run directories or libraries")->required();
  merge->add_option("--out", o->out, "folder of the library to make")->required();
  merge->add_flag("--keep-first", o->keep_first, "of two records of one item, take the first instead of refusing");
  merge->add_flag("--json", o->json, "machine-readable, on stdout");
  merge->callback([o, &action] { action = [o] { return run_merge(*o); }; });

  auto* diff = app.add_subcommand("diff",
                                  "what two libraries have in common; exit code 0 when they are equal, else 1\n\n"
                                  "Example: divergen diff runs/a runs/b");
  diff->add_option("libraries", o->from, "two run directories or libraries")->required()->expected(2);
  diff->add_flag("--json", o->json, "machine-readable, on stdout");
  diff->callback([o, &action] { action = [o] { return run_diff(*o); }; });
}

}  // namespace divergen::driver
