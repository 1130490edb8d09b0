// A pool of cut-outs in X-Paste's and DiverGen's layout, as a library.

#include "store/exchange/import.hpp"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "image/image.hpp"
#include "store/exchange/shard_writer.hpp"
#include "store/library_format.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

constexpr const char* kPoolName = "LVIS_instance_pools.json";
constexpr const char* kUnknownPrompt = "unknown: imported from a pool";
constexpr int kWarnings = 10;  // pictures that are left out, named one by one

[[noreturn]] void not_a_pool(const Path& file, const std::string& why) {
  fail(ErrorKind::Data, {"this is not a pool", file.string(), why,
                         "name the pool's JSON: {\"<class from 0>\": [\"*<path of an RGBA PNG>\", ...]}"});
}

json read_json(const Path& file) {
  const json out = json::parse(read_file(file), nullptr, false);
  if (out.is_discarded())
    fail(ErrorKind::Data, {"a file cannot be read", file.string(), "it is not JSON", "copy it again from its source"});
  return out;
}

bool is_pool(const json& value) {
  return value.is_object() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [](const json& list) { return list.is_array(); });
}

Path pool_file(const Path& from) {
  if (!std::filesystem::is_directory(from)) return from;
  if (std::filesystem::exists(from / kPoolName)) return from / kPoolName;
  std::vector<Path> found;
  for (const auto& entry : std::filesystem::directory_iterator(from))
    if (entry.path().extension() == ".json" && is_pool(json::parse(read_file(entry.path()), nullptr, false)))
      found.push_back(entry.path());
  if (found.size() != 1) not_a_pool(from, cat("the folder holds ", found.size(), " files that could be its JSON"));
  return found[0];
}

/// Paths of the pool are as its maker's working directory saw them: tried as they stand, then below the JSON's folder,
/// whole and from "images/" on.
std::optional<Path> find_picture(const std::string& path, const Path& folder) {
  std::vector<Path> places{path, folder / path};
  if (const std::size_t at = path.rfind("images/"); at != std::string::npos) places.push_back(folder / path.substr(at));
  std::error_code ignored;
  for (const Path& place : places)
    if (std::filesystem::is_regular_file(place, ignored)) return place;
  return std::nullopt;
}

/// A line of instances.jsonl.
struct Known {
  json line;
};

class Importer {
 public:
  Importer(const Path& from, const Path& out, const ImportOptions& options)
      : file_(pool_file(from)),
        folder_(file_.has_parent_path() ? file_.parent_path() : "."),
        options_(options),
        writer_(out) {
    pool_ = read_json(file_);
    if (!is_pool(pool_)) not_a_pool(file_, "it is no object of lists");
  }

  ImportSummary run() {
    read_tables();
    for (const auto& [cls, list] : classes())
      for (const json& path : *list) add(cls, path);
    ImportSummary summary;
    for (const auto& [reason, count] : rejected_) log::warn(count, " pictures are left out: ", reason);
    summary.hash = writer_.finish();
    summary.instances = writer_.instances();
    summary.rejected = rejected_;
    return summary;
  }

 private:
  /// The lists of the pool in the order of their classes.
  std::vector<std::pair<std::int32_t, const json*>> classes() const {
    std::vector<std::pair<std::int32_t, const json*>> out;
    for (const auto& [key, list] : pool_.items()) {
      char* end = nullptr;
      const long cls = std::strtol(key.c_str(), &end, 10);
      if (key.empty() || *end != '\0' || cls < 0 || cls > (1L << 30)) not_a_pool(file_, cat("'", key, "' is no class"));
      out.emplace_back(static_cast<std::int32_t>(cls), &list);
    }
    std::sort(out.begin(), out.end());
    return out;
  }

  void read_tables() {
    LibraryTables tables;
    if (std::filesystem::exists(folder_ / "tables.json") && std::filesystem::exists(folder_ / "instances.jsonl")) {
      read_records(tables);
    } else {
      read_categories(tables);
    }
    bool all_known = !known_.empty();
    for (const auto& [cls, list] : classes())
      for (const json& path : *list)
        all_known = all_known && path.is_string() && known_.count(relative(path.get<std::string>())) > 0;
    if (!all_known) {
      unknown_generator_ = static_cast<std::int32_t>(tables.generators.size());
      unknown_prompt_ = static_cast<std::int32_t>(tables.prompts.size());
      tables.generators.push_back({"import", "import", "", "", 0, 0});
      tables.prompts.emplace_back(kUnknownPrompt);
    }
    if (tables.software.empty()) tables.software = cat("imported from ", file_.filename().string());
    writer_.use(std::move(tables));
  }

  void read_records(LibraryTables& tables) {
    const Path file = folder_ / "tables.json", lines = folder_ / "instances.jsonl";
    try {
      const json from = read_json(file);
      Table table(kLibraryFormat, kLibraryVersion);
      table.documents["categories"] = from.at("categories").dump();
      table.documents["generators"] = from.at("generators").dump();
      table.documents["prompts"] = "{}";
      table.attributes = from.at("attributes").get<std::map<std::string, std::string>>();
      tables = documents_to_tables(table);
      const std::string text = read_file(lines);
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        json line = json::parse(text.substr(at, end - at));
        const std::string prompt = line.at("prompt");
        if (prompt_of_.emplace(prompt, static_cast<std::int32_t>(tables.prompts.size())).second)
          tables.prompts.push_back(prompt);
        const std::string name = line.at("file");
        known_[name].line = std::move(line);
        at = end + 1;
      }
    } catch (const json::exception& error) {
      fail(ErrorKind::Data, {"the records beside a pool cannot be read", cat(file.string(), ", ", lines.string()),
                             error.what(), "remove both to import the pictures alone"});
    }
    for (std::size_t g = 0; g < tables.generators.size(); ++g)
      generator_of_[tables.generators[g].name] = static_cast<std::int32_t>(g);
  }

  void read_categories(LibraryTables& tables) {
    std::map<std::int32_t, LibraryCategory> all;
    if (!options_.categories.empty()) {
      json list = read_json(options_.categories);
      if (list.is_object() && list.contains("categories")) list = list["categories"];
      try {
        for (const json& one : list) {
          const std::int32_t id = one.at("id");
          all[id] = {id, one.at("name"), one.value("frequency", ""), one.value("role", "eval") == "extra"};
        }
      } catch (const json::exception& error) {
        fail(ErrorKind::Data, {"the categories cannot be read", options_.categories.string(), error.what(),
                               "name a JSON list with id, name and frequency, or an LVIS file"});
      }
    }
    for (const auto& [cls, list] : classes()) {
      if (list->empty() || all.count(cls + 1) > 0) continue;
      all[cls + 1] = {cls + 1, cat("category_", cls + 1), "", false};
    }
    for (auto& [id, category] : all) tables.categories.push_back(std::move(category));
  }

  /// The name of a picture in instances.jsonl.
  static std::string relative(const std::string& path) {
    const std::size_t at = path.rfind("images/");
    return at == std::string::npos ? path : path.substr(at);
  }

  void reject(const std::string& reason, const std::string& what) {
    ++rejected_[reason];
    if (warnings_++ < kWarnings) log::warn("left out: ", what, ": ", reason);
  }

  void add(std::int32_t cls, const json& entry) {
    if (!entry.is_string()) return reject("its path is no text", entry.dump());
    std::string path = entry;
    if (!path.starts_with('*')) return reject("it is not cut out yet (no '*' before its path)", path);
    path.erase(0, 1);
    const auto place = find_picture(path, folder_);
    if (!place) return reject("there is no such file", path);
    Instance instance;
    try {
      instance.png = read_file(*place);
    } catch (const Error& error) {
      return reject("it cannot be read", cat(path, ": ", error.text().why));
    }
    const auto decoded = image::decode(instance.png, image::Channels::AsStored);
    if (!decoded.image) return reject("it cannot be decoded", cat(path, ": ", decoded.problem));
    if (!instance.png.starts_with("\x89PNG") || decoded.image->channels != 4) return reject("it is no RGBA PNG", path);
    instance.category_id = cls + 1;
    const std::string reason = fill(instance, relative(path), *decoded.image);
    if (!reason.empty()) return reject(reason, path);
    const std::uint64_t hash = record_hash(instance, writer_.tables());
    const auto [seen, is_new] = hash_of_.emplace(instance.item_id, hash);
    if (!is_new) return reject(seen->second == hash ? "it stands there twice" : "its item stands there twice", path);
    writer_.add(std::move(instance));
  }

  /// Everything but picture and category; why it cannot be, or "".
  std::string fill(Instance& instance, const std::string& name, const image::Image& picture) {
    instance.width = picture.width;
    instance.height = picture.height;
    const auto found = known_.find(name);
    if (found != known_.end()) return fill_from_record(instance, found->second.line);
    for (std::size_t p = 3; p < picture.pixels.size(); p += 4)
      instance.area += picture.pixels[p] > options_.alpha_threshold;
    if (instance.area == 0) return "nothing of it is opaque";
    instance.source_width = picture.width;
    instance.source_height = picture.height;
    instance.generator = unknown_generator_;
    instance.prompt = unknown_prompt_;
    instance.similarity = -1;
    // Of what it is: the same picture of the same class is the same item in every import.
    instance.item_id = hash64(instance.png, static_cast<std::uint64_t>(instance.category_id));
    return "";
  }

  std::string fill_from_record(Instance& i, const json& line) {
    try {
      const auto hex = [&](const char* key) { return std::stoull(line.at(key).get<std::string>(), nullptr, 16); };
      if (hex("png_hash") != hash64(i.png)) return "it is not the picture of its record";
      if (line.at("category_id") != i.category_id) return "its record has another category";
      i.item_id = hex("item_id");
      i.seed = hex("seed");
      i.sample = line.at("sample");
      i.box_x = line.at("box").at(0);
      i.box_y = line.at("box").at(1);
      i.source_width = line.at("source_size").at(0);
      i.source_height = line.at("source_size").at(1);
      i.area = line.at("area");
      i.similarity = line.at("similarity");
      i.clip_score = line.at("clip_score");
      i.flags = line.at("flags");
      i.prompt = prompt_of_.at(line.at("prompt"));
      i.generator = generator_of_.at(line.at("generator"));
      i.annotator = line.value("annotator", "");
      for (const auto& [name, score] : line.value("annotator_scores", json::object()).items())
        i.annotator_scores.emplace_back(name, score.get<float>());
    } catch (const std::exception&) {  // JSON's, a number that is none, a generator that tables.json does not list
      return "its record cannot be read";
    }
    return "";
  }

  Path file_, folder_;
  ImportOptions options_;
  ShardWriter writer_;
  json pool_;
  std::unordered_map<std::string, Known> known_;
  std::unordered_map<std::string, std::int32_t> prompt_of_, generator_of_;
  std::unordered_map<std::uint64_t, std::uint64_t> hash_of_;  // item -> record
  std::int32_t unknown_generator_ = 0, unknown_prompt_ = 0;
  std::map<std::string, std::int64_t> rejected_;
  int warnings_ = 0;
};

}  // namespace

ImportSummary import_pool(const Path& from, const Path& out, const ImportOptions& options) {
  if (!std::filesystem::exists(from))
    fail(ErrorKind::Usage,
         {"there is nothing to import", from.string(), "it does not exist", "name a pool's JSON or folder"});
  return Importer(from, out, options).run();
}

}  // namespace divergen::store
