// Whether the tables of a run are whole, and what to make again.

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "store/inspect.hpp"
#include "store/library_format.hpp"
#include "store/table_file.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

constexpr const char* kPlanFormat = "divergen-plan";
constexpr const char* kPlanName = "plan.h5";
/// Stages that have a row for every item of the plan, and the names of their folders.
constexpr const char* kItemStages[] = {"generate", "annotate", "filter"};

class Verifier {
 public:
  explicit Verifier(const Path& folder) : folder_(folder) {}

  RunReport run() {
    std::vector<Path> tables, records;
    std::error_code error;
    for (std::filesystem::recursive_directory_iterator it(folder_, error), end; it != end; it.increment(error)) {
      const Path& path = it->path();
      if (path.extension() == ".h5") tables.push_back(path);
      if (path.extension() == ".part") ++report_.leftovers;
      if (path.extension() == ".json" && path.parent_path().filename() == "stages") records.push_back(path);
    }
    if (error) fail(ErrorKind::Io, {"cannot list a run", folder_.string(), error.message(), "name a run directory"});
    if (tables.empty())
      fail(ErrorKind::Data, {"there is nothing to check", folder_.string(), "it holds no table (*.h5)",
                             "name a run directory or the folder of a library"});
    std::sort(tables.begin(), tables.end());
    for (const Path& path : tables) check_file(path);
    for (const Path& path : records) check_json(path);
    for (const auto& [folder, library] : libraries_) check_index(folder, library);
    check_items();
    return std::move(report_);
  }

 private:
  struct LibrarySeen {
    LibraryHash hash;
    std::size_t instances = 0;
    bool is_whole = true;                                       // all its shards could be read
    std::vector<std::pair<std::string, std::uint64_t>> shards;  // name and table hash, in the order of the names
  };

  void problem(const Path& file, std::optional<std::size_t> row, std::string why) {
    report_.problems.push_back({file, row, std::move(why)});
  }

  void check_file(const Path& path) {
    ++report_.files;
    std::optional<Table> table;
    try {
      table = read_table(path);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data && error.kind() != ErrorKind::Io) throw;
      for (const TableProblem& found : check_table(path)) problem(path, found.row, found.why);
      damaged_folders_.insert(path.parent_path().string());
      return;
    }
    report_.rows += static_cast<std::int64_t>(table->rows());
    if (table->format() == kLibraryFormat) check_library_shard(path, *table);
    if (table->format() == kPlanFormat && path.filename() == kPlanName)
      for (const std::uint64_t id : table->get<std::uint64_t>("item_id")) planned_.insert(id);
    if (table->has("item_id")) note_items(path, table->get<std::uint64_t>("item_id"));
  }

  void check_library_shard(const Path& path, const Table& table) {
    LibrarySeen& library = libraries_[path.parent_path()];
    library.shards.emplace_back(path.filename().string(), table.table_hash());
    std::vector<Instance> instances;
    try {
      instances = instances_of(table);
    } catch (const Error& error) {
      library.is_whole = false;
      problem(path, std::nullopt, cat(error.text().what, ": ", error.text().object, ": ", error.text().why));
      return;
    }
    for (std::size_t row = 0; row < instances.size(); ++row) {
      const Instance& one = instances[row];
      library.hash.add(table.get<std::uint64_t>("record_hash")[row]);
      ++library.instances;
      const auto picture = image::decode(one.png, image::Channels::AsStored);
      if (!picture.image) {
        problem(path, row, "its picture cannot be decoded: " + picture.problem);
      } else if (picture.image->channels != 4 || picture.image->width != one.width ||
                 picture.image->height != one.height) {
        problem(path, row,
                cat("its picture is ", picture.image->width, "x", picture.image->height, " with ",
                    picture.image->channels, " channels, not ", one.width, "x", one.height, " with 4"));
      }
    }
  }

  void check_index(const Path& folder, const LibrarySeen& library) {
    const Path file = folder / kIndexName;
    if (!std::filesystem::exists(file) || !library.is_whole || damaged_folders_.count(folder.string()) > 0) return;
    const Table index = read_table(file);
    const auto attribute = [&](const char* name) {
      const auto found = index.attributes.find(name);
      return found == index.attributes.end() ? std::string() : found->second;
    };
    json expected = json::array();
    for (const auto& [name, hash] : library.shards) expected.push_back({name, to_hex(hash)});
    json listed = json::array();
    const auto document = index.documents.find("shards");
    const json shards = document == index.documents.end() ? json() : json::parse(document->second, nullptr, false);
    if (shards.is_array())
      for (const json& shard : shards) listed.push_back({shard.value("file", ""), shard.value("table_hash", "")});
    if (listed != expected) {
      problem(file, std::nullopt, "it was made for other shards than those that are there");
    } else if (attribute("library_hash") != library.hash.hex() ||
               attribute("instances") != std::to_string(library.instances)) {
      problem(file, std::nullopt, "its hash or number of instances is not that of the shards");
    }
  }

  void check_json(const Path& path) {
    ++report_.files;
    try {
      if (json::accept(read_file(path))) return;
      problem(path, std::nullopt, "it is not JSON");
    } catch (const Error& error) {
      problem(path, std::nullopt, error.text().why);
    }
  }

  /// Remembers which items a stage has, and finds those that it has twice.
  void note_items(const Path& path, const std::vector<std::uint64_t>& ids) {
    if (!path.filename().string().starts_with("shard-")) return;
    auto& seen = items_[path.parent_path().string()];
    for (std::size_t row = 0; row < ids.size(); ++row)
      if (const auto [first, is_new] = seen.emplace(ids[row], path); !is_new)
        problem(path, row, cat("item ", to_hex(ids[row]), " stands in ", first->second.filename().string(), " too"));
  }

  void check_items() {
    if (planned_.empty()) return;
    std::map<Path, std::size_t> foreign;
    for (const auto& [folder, seen] : items_)
      for (const auto& [id, path] : seen) foreign[path] += planned_.count(id) == 0;
    for (const auto& [path, count] : foreign)
      if (count > 0) problem(path, std::nullopt, cat(count, " of its items are not in the plan"));
    for (const char* stage : kItemStages) {
      if (!std::filesystem::exists(folder_ / "stages" / (std::string(stage) + ".json"))) continue;
      const auto found = items_.find((folder_ / stage).string());
      const std::size_t have = found == items_.end() ? 0 : found->second.size();
      if (have < planned_.size())
        problem(folder_ / stage, std::nullopt,
                cat(planned_.size() - have, " items of the plan are missing though the stage is complete"));
    }
  }

  Path folder_;
  RunReport report_;
  std::map<Path, LibrarySeen> libraries_;
  std::unordered_set<std::string> damaged_folders_;
  std::unordered_set<std::uint64_t> planned_;
  std::map<std::string, std::unordered_map<std::uint64_t, Path>> items_;  // by folder
};

}  // namespace

json RunReport::to_json() const {
  json list = json::array();
  for (const RunProblem& one : problems)
    list.push_back({{"file", one.file.string()}, {"row", one.row ? json(*one.row) : json()}, {"why", one.why}});
  return {{"files", files}, {"rows", rows}, {"leftovers", leftovers}, {"problems", list}};
}

RunReport verify_run(const Path& folder) { return Verifier(folder).run(); }

std::vector<Path> repair_run(const Path& folder, const RunReport& report) {
  std::vector<Path> removed;
  for (const RunProblem& one : report.problems) {
    if (one.file.filename() == kPlanName || !std::filesystem::is_regular_file(one.file)) continue;
    std::error_code error;
    if (!std::filesystem::remove(one.file, error) && error)
      fail(ErrorKind::Io, {"cannot remove a damaged file", one.file.string(), error.message(),
                           cat("check the permissions of ", folder.string())});
    removed.push_back(one.file);
  }
  std::sort(removed.begin(), removed.end());
  removed.erase(std::unique(removed.begin(), removed.end()), removed.end());
  return removed;
}

}  // namespace divergen::store
