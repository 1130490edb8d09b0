// Whether the tables of a run are whole, and what to make again.

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "store/inspect.hpp"
#include "store/library_format.hpp"
#include "store/salvage.hpp"
#include "store/table_file.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

constexpr const char* kPlanFormat = "divergen-plan";
constexpr const char* kPlanName = "plan.h5";
constexpr const char* kRetriesName = "plan.retries.h5";
/// Stages that have a row for every item of the plan, and the names of their folders.
constexpr const char* kItemStages[] = {"generate", "annotate", "fused", "filter"};

/// What one table says, found without looking at any other.
struct FileSeen {
  std::vector<RunProblem> problems;
  std::size_t rows = 0;
  bool is_whole = false, is_library = false, is_readable = true;  // as a table; as a library's shard
  std::uint64_t table_hash = 0;
  std::vector<std::uint64_t> record_hashes, items, planned;
};

void check_pictures(const Path& path, const std::vector<Instance>& instances, FileSeen& seen) {
  for (std::size_t row = 0; row < instances.size(); ++row) {
    const Instance& one = instances[row];
    const auto picture = image::decode(one.png, image::Channels::AsStored);
    if (!picture.image) {
      seen.problems.push_back({path, row, "heap", "its picture cannot be decoded: " + picture.problem});
    } else if (picture.image->channels != 4 || picture.image->width != one.width ||
               picture.image->height != one.height) {
      seen.problems.push_back({path, row, "heap",
                               cat("its picture is ", picture.image->width, "x", picture.image->height, " with ",
                                   picture.image->channels, " channels, not ", one.width, "x", one.height, " with 4")});
    }
  }
}

FileSeen look_at(const Path& path) {
  FileSeen seen;
  std::optional<Table> table;
  try {
    table = read_table(path);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data && error.kind() != ErrorKind::Io) throw;
    for (const TableProblem& found : check_table(path))
      seen.problems.push_back({path, found.row, found.column, found.why});
    if (seen.problems.empty()) seen.problems.push_back({path, std::nullopt, "", error.text().why});
    return seen;
  }
  seen.is_whole = true;
  seen.rows = table->rows();
  seen.is_library = table->format() == kLibraryFormat;
  if (table->format() == kPlanFormat && (path.filename() == kPlanName || path.filename() == kRetriesName))
    seen.planned = table->get<std::uint64_t>("item_id");
  if (table->has("item_id")) seen.items = table->get<std::uint64_t>("item_id");
  if (!seen.is_library) return seen;
  seen.table_hash = table->table_hash();
  try {
    check_pictures(path, instances_of(*table), seen);
    seen.record_hashes = table->get<std::uint64_t>("record_hash");
  } catch (const Error& error) {
    seen.is_readable = false;
    seen.problems.push_back(
        {path, std::nullopt, "", cat(error.text().what, ": ", error.text().object, ": ", error.text().why)});
  }
  return seen;
}

/// Looks at all files, several at once, and hands over what was found in the files' order.
template <class Take>
void look_at_all(const std::vector<Path>& files, int threads, const Take& take) {
  if (threads <= 0) threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 16U));
  std::vector<std::optional<FileSeen>> found(files.size());
  std::vector<std::exception_ptr> errors(files.size());
  std::atomic<std::size_t> next{0};
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t)
    workers.emplace_back([&] {
      for (std::size_t i = next++; i < files.size(); i = next++) {
        try {
          found[i] = look_at(files[i]);
        } catch (...) {
          errors[i] = std::current_exception();
        }
      }
    });
  for (std::thread& worker : workers) worker.join();
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (errors[i]) std::rethrow_exception(errors[i]);
    take(files[i], std::move(*found[i]));
  }
}

class Verifier {
 public:
  Verifier(const Path& folder, int threads) : folder_(folder), threads_(threads) {}

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
    look_at_all(tables, threads_, [&](const Path& path, FileSeen seen) { take(path, std::move(seen)); });
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
    report_.problems.push_back({file, row, "", std::move(why)});
  }

  void take(const Path& path, FileSeen seen) {
    ++report_.files;
    for (RunProblem& one : seen.problems) report_.problems.push_back(std::move(one));
    if (!seen.is_whole) {
      damaged_folders_.insert(path.parent_path().string());
      return;
    }
    report_.rows += static_cast<std::int64_t>(seen.rows);
    if (seen.is_library) {
      LibrarySeen& library = libraries_[path.parent_path()];
      library.shards.emplace_back(path.filename().string(), seen.table_hash);
      library.is_whole = library.is_whole && seen.is_readable;
      for (const std::uint64_t hash : seen.record_hashes) library.hash.add(hash);
      library.instances += seen.record_hashes.size();
    }
    planned_.insert(seen.planned.begin(), seen.planned.end());
    note_items(path, seen.items);
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
  int threads_;
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
    list.push_back({{"file", one.file.string()},
                    {"row", one.row ? json(*one.row) : json()},
                    {"column", one.column.empty() ? json() : json(one.column)},
                    {"why", one.why}});
  return {{"files", files}, {"rows", rows}, {"leftovers", leftovers}, {"problems", list}};
}

RunReport verify_run(const Path& folder, int threads) { return Verifier(folder, threads).run(); }

namespace {

/// Puts the rows that verify beside a damaged shard. Of a problem that its hashes do not show (a library's picture that
/// cannot be decoded, an item that stands twice) nothing is kept.
void keep_rows(Repaired& one) {
  const Path beside = kept_rows_file(one.file);
  if (beside.empty() || !verify_table(one.file)) return;
  const auto kept = keep_whole_rows(one.file, beside);
  if (!kept) return;
  one.kept = kept->kept;
  one.rows = kept->total;
}

}  // namespace

std::vector<Repaired> repair_run(const Path& folder, const RunReport& report) {
  const bool is_run = std::filesystem::exists(folder / kPlanName);  // a library alone has no stage to mend it
  std::vector<Path> bad;
  for (const RunProblem& one : report.problems)
    if (one.file.filename() != kPlanName && std::filesystem::is_regular_file(one.file)) bad.push_back(one.file);
  std::sort(bad.begin(), bad.end());
  bad.erase(std::unique(bad.begin(), bad.end()), bad.end());
  std::vector<Repaired> out;
  for (const Path& file : bad) {
    Repaired one{file};
    if (is_run) keep_rows(one);
    std::error_code error;
    if (!std::filesystem::remove(file, error) && error)
      fail(ErrorKind::Io, {"cannot remove a damaged file", file.string(), error.message(),
                           cat("check the permissions of ", folder.string())});
    out.push_back(one);
  }
  return out;
}

}  // namespace divergen::store
