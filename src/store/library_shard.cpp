// Instances <-> the table of one shard, and their hashes.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "store/library.hpp"
#include "store/library_format.hpp"
#include "store/table_stream.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

/// Of a plan (the largest planned so far has ten thousand). A number beyond it is no prompt but damage, and would take
/// gigabytes for a list of empty texts.
constexpr std::size_t kMostPrompts = 1 << 24;
constexpr const char* kAnnotatorColumn = "annotator";
constexpr const char* kAnnotatorScore = "annotator_score.";
constexpr const char* kAnnotatorsDocument = "annotators";

template <class T>
void append(std::string& bytes, T value) {
  char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);  // little-endian, as every machine that this runs on
  bytes.append(raw, sizeof raw);
}

void append_text(std::string& bytes, const std::string& text) {
  append(bytes, static_cast<std::uint32_t>(text.size()));
  bytes += text;
}

template <class T>
const T& at(const std::vector<T>& list, std::int32_t index, const char* what, std::uint64_t item) {
  if (index < 0 || static_cast<std::size_t>(index) >= list.size())
    fail(ErrorKind::Data, {"an instance points outside its library's tables", cat("item ", to_hex(item)),
                           cat(what, " ", index, " of ", list.size()), "run `divergen repair` on its run"});
  return list[static_cast<std::size_t>(index)];
}

const LibraryCategory& category_of(const LibraryTables& tables, std::int32_t id, std::uint64_t item) {
  for (const LibraryCategory& category : tables.categories)
    if (category.id == id) return category;
  fail(ErrorKind::Data, {"an instance has a category that its library does not list", cat("item ", to_hex(item)),
                         cat("category id ", id), "run `divergen repair` on its run"});
}

json prompts_in_use(const std::vector<Instance>& instances, const LibraryTables& tables) {
  json prompts = json::object();
  for (const Instance& instance : instances)
    prompts[std::to_string(instance.prompt)] = at(tables.prompts, instance.prompt, "prompt", instance.item_id);
  return prompts;
}

}  // namespace

std::uint64_t record_hash(const Instance& i, const LibraryTables& tables, std::uint64_t png_hash) {
  const LibraryCategory& category = category_of(tables, i.category_id, i.item_id);
  const LibraryGenerator& generator = at(tables.generators, i.generator, "generator", i.item_id);
  std::string bytes;
  append(bytes, png_hash);
  append(bytes, i.item_id);
  append(bytes, i.seed);
  for (const std::int32_t value :
       {i.category_id, i.sample, i.width, i.height, i.box_x, i.box_y, i.source_width, i.source_height})
    append(bytes, value);
  append(bytes, i.area);
  append(bytes, i.similarity);
  append(bytes, i.clip_score);
  append(bytes, i.flags);
  append_text(bytes, category.name);
  for (const std::string* text : {&generator.name, &generator.kind, &generator.sampler, &generator.weights_hash})
    append_text(bytes, *text);
  append(bytes, generator.steps);
  append(bytes, generator.guidance);
  append_text(bytes, at(tables.prompts, i.prompt, "prompt", i.item_id));
  return hash64(bytes);
}

std::uint64_t record_hash(const Instance& instance, const LibraryTables& tables) {
  return record_hash(instance, tables, hash64(instance.png));
}

void LibraryHash::add(std::uint64_t record_hash) {
  const std::string_view bytes(reinterpret_cast<const char*>(&record_hash), sizeof record_hash);
  low_ += hash64(bytes, 1);
  high_ += hash64(bytes, 2);
}

std::string LibraryHash::hex() const { return to_hex(high_) + to_hex(low_); }

void tables_to_documents(const LibraryTables& tables, Table& table) {
  json categories = json::array(), generators = json::array();
  for (const auto& c : tables.categories)
    categories.push_back({{"id", c.id}, {"name", c.name}, {"frequency", c.frequency}, {"is_extra", c.is_extra}});
  for (const auto& g : tables.generators)
    generators.push_back({{"name", g.name},
                          {"kind", g.kind},
                          {"sampler", g.sampler},
                          {"steps", g.steps},
                          {"guidance", g.guidance},
                          {"weights_hash", g.weights_hash},
                          {"negative_prompt", g.negative_prompt},
                          {"size", g.size},
                          {"batch", g.batch},
                          {"software", g.software}});
  table.documents["categories"] = categories.dump();
  table.documents["generators"] = generators.dump();
  table.attributes["annotator_hash"] = tables.annotator_hash;
  table.attributes["clip_hash"] = tables.clip_hash;
  table.attributes["config_hash"] = tables.config_hash;
  table.attributes["software"] = tables.software;
}

LibraryTables documents_to_tables(const Table& table) {
  LibraryTables tables;
  try {
    for (const json& c : json::parse(table.documents.at("categories")))
      tables.categories.push_back({c.at("id"), c.at("name"), c.at("frequency"), c.at("is_extra")});
    for (const json& g : json::parse(table.documents.at("generators")))
      // The last four came later: libraries without them stay readable.
      tables.generators.push_back({g.at("name"), g.at("kind"), g.at("sampler"), g.at("weights_hash"), g.at("steps"),
                                   g.at("guidance"), g.value("negative_prompt", ""), g.value("size", std::int64_t{0}),
                                   g.value("batch", std::int64_t{0}), g.value("software", "")});
    const json prompts = json::parse(table.documents.at("prompts"));
    for (const auto& [key, text] : prompts.items()) {
      const std::size_t index = std::stoul(key);
      if (index >= kMostPrompts) throw std::out_of_range("prompt " + key);
      if (index >= tables.prompts.size()) tables.prompts.resize(index + 1);
      tables.prompts[index] = text;
    }
    tables.annotator_hash = table.attributes.at("annotator_hash");
    tables.clip_hash = table.attributes.at("clip_hash");
    tables.config_hash = table.attributes.at("config_hash");
    tables.software = table.attributes.at("software");
  } catch (const std::exception& error) {  // JSON's errors, a missing document, a key that is no number
    fail(ErrorKind::Data, {"the tables of a library cannot be read", cat("a '", table.format(), "' file"), error.what(),
                           "run `divergen repair` on its run"});
  }
  return tables;
}

void check_format(const Table& table, const char* format) {
  if (table.format() == format && table.version() == kLibraryVersion) return;
  fail(ErrorKind::Data, {"not a library file that this version reads", cat("'", table.format(), "'"),
                         cat("it is version ", table.version(), " of '", table.format(), "', expected version ",
                             kLibraryVersion, " of '", format, "'"),
                         "name a folder made by `divergen pool`"});
}

namespace {

/// Columns and document of the annotators' choice, where some instance has one.
void add_choice(const std::vector<Instance>& instances, Table& table) {
  std::vector<std::string> names;
  const auto index_of = [&](const std::string& name) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) return names.insert(names.end(), name) - names.begin();
    return found - names.begin();
  };
  for (const Instance& instance : instances) {
    for (const auto& [name, score] : instance.annotator_scores) index_of(name);
    if (!instance.annotator.empty()) index_of(instance.annotator);
  }
  if (names.empty()) return;
  std::vector<std::int32_t> chosen;
  std::vector<std::vector<float>> scores(names.size(),
                                         std::vector<float>(instances.size(), std::numeric_limits<float>::quiet_NaN()));
  for (std::size_t row = 0; row < instances.size(); ++row) {
    const Instance& instance = instances[row];
    chosen.push_back(instance.annotator.empty() ? -1 : static_cast<std::int32_t>(index_of(instance.annotator)));
    for (const auto& [name, score] : instance.annotator_scores)
      scores[static_cast<std::size_t>(index_of(name))][row] = score;
  }
  table.add(kAnnotatorColumn, std::move(chosen));
  for (std::size_t n = 0; n < names.size(); ++n) table.add(kAnnotatorScore + names[n], std::move(scores[n]));
  table.documents[kAnnotatorsDocument] = json(names).dump();
}

void read_choice(const Table& table, std::size_t row, Instance& instance) {
  if (!table.has(kAnnotatorColumn)) return;
  const auto document = table.documents.find(kAnnotatorsDocument);
  const json names =
      document == table.documents.end() ? json() : json::parse(document->second, nullptr, /*allow_exceptions=*/false);
  const auto index = static_cast<std::int64_t>(table.get<std::int32_t>(kAnnotatorColumn)[row]);
  const bool is_list =
      names.is_array() && std::all_of(names.begin(), names.end(), [](const json& n) { return n.is_string(); });
  if (!is_list || index >= static_cast<std::int64_t>(names.size()))
    fail(ErrorKind::Data, {"the annotators of a library's shard cannot be read", cat("row ", row),
                           cat("annotator ", index, " of ", names.size()), "run `divergen repair` on its run"});
  if (index >= 0) instance.annotator = names[static_cast<std::size_t>(index)].get<std::string>();
  for (const json& name : names) {
    const float score = table.get<float>(kAnnotatorScore + name.get<std::string>())[row];
    if (!std::isnan(score)) instance.annotator_scores.emplace_back(name.get<std::string>(), score);
  }
}

/// All of a shard but its heap.
Table columns_of(const std::vector<Instance>& instances, const LibraryTables& tables) {
  DIVERGEN_CHECK(instances.size() <= kShardRows, instances.size());
  Table table(kLibraryFormat, kLibraryVersion);
  const auto column = [&](const char* name, auto value_of) {
    std::vector<std::decay_t<decltype(value_of(Instance{}))>> values;
    values.reserve(instances.size());
    for (const Instance& instance : instances) values.push_back(value_of(instance));
    table.add(name, std::move(values));
  };
  column("item_id", [](const Instance& i) { return i.item_id; });
  column("seed", [](const Instance& i) { return i.seed; });
  column("category", [](const Instance& i) { return i.category_id; });
  column("generator", [](const Instance& i) { return i.generator; });
  column("prompt", [](const Instance& i) { return i.prompt; });
  column("sample", [](const Instance& i) { return i.sample; });
  column("width", [](const Instance& i) { return i.width; });
  column("height", [](const Instance& i) { return i.height; });
  column("box_x", [](const Instance& i) { return i.box_x; });
  column("box_y", [](const Instance& i) { return i.box_y; });
  column("source_width", [](const Instance& i) { return i.source_width; });
  column("source_height", [](const Instance& i) { return i.source_height; });
  column("area", [](const Instance& i) { return i.area; });
  column("similarity", [](const Instance& i) { return i.similarity; });
  column("clip_score", [](const Instance& i) { return i.clip_score; });
  column("flags", [](const Instance& i) { return i.flags; });
  add_choice(instances, table);
  std::vector<std::uint64_t> png_hashes, record_hashes;
  for (const Instance& instance : instances) {
    png_hashes.push_back(hash64(instance.png));
    record_hashes.push_back(record_hash(instance, tables, png_hashes.back()));
  }
  table.add("png_hash", std::move(png_hashes));
  table.add("record_hash", std::move(record_hashes));
  tables_to_documents(tables, table);
  table.documents["prompts"] = prompts_in_use(instances, tables).dump();
  return table;
}

std::vector<std::uint64_t> lengths_of(const std::vector<Instance>& instances) {
  std::vector<std::uint64_t> lengths;
  for (const Instance& instance : instances) lengths.push_back(instance.png.size());
  return lengths;
}

}  // namespace

Table make_library_table(const std::vector<Instance>& instances, const LibraryTables& tables) {
  Table table = columns_of(instances, tables);
  std::size_t bytes = 0;
  for (const Instance& instance : instances) bytes += instance.png.size();
  std::string heap;
  heap.reserve(bytes);
  for (const Instance& instance : instances) heap += instance.png;
  table.set_heap(std::move(heap), lengths_of(instances));
  return table;
}

Instance instance_without_png(const Table& table, std::size_t row) {
  Instance i;
  i.item_id = table.get<std::uint64_t>("item_id")[row];
  i.seed = table.get<std::uint64_t>("seed")[row];
  i.category_id = table.get<std::int32_t>("category")[row];
  i.generator = table.get<std::int32_t>("generator")[row];
  i.prompt = table.get<std::int32_t>("prompt")[row];
  i.sample = table.get<std::int32_t>("sample")[row];
  i.width = table.get<std::int32_t>("width")[row];
  i.height = table.get<std::int32_t>("height")[row];
  i.box_x = table.get<std::int32_t>("box_x")[row];
  i.box_y = table.get<std::int32_t>("box_y")[row];
  i.source_width = table.get<std::int32_t>("source_width")[row];
  i.source_height = table.get<std::int32_t>("source_height")[row];
  i.area = table.get<std::int64_t>("area")[row];
  i.similarity = table.get<float>("similarity")[row];
  i.clip_score = table.get<float>("clip_score")[row];
  i.flags = table.get<std::uint32_t>("flags")[row];
  read_choice(table, row, i);
  return i;
}

void check_record(const Instance& instance, const LibraryTables& tables, const Table& table, std::size_t row,
                  const Path& file) {
  const std::uint64_t expected = table.get<std::uint64_t>("record_hash")[row];
  const std::uint64_t png_hash = table.get<std::uint64_t>("png_hash")[row];
  if (record_hash(instance, tables, png_hash) != expected)
    fail(ErrorKind::Data,
         {"an instance of the library is damaged", cat(file.string(), " row ", row),
          "what it holds does not have the record hash that it names", "run `divergen repair` on its run"});
}

std::vector<Instance> instances_of(const Table& table, LibraryTables* tables_out) {
  check_format(table, kLibraryFormat);
  const LibraryTables tables = documents_to_tables(table);
  std::vector<Instance> instances;
  for (std::size_t row = 0; row < table.rows(); ++row) {
    Instance instance = instance_without_png(table, row);
    instance.png = table.heap(row);
    if (hash64(instance.png) != table.get<std::uint64_t>("png_hash")[row])
      fail(ErrorKind::Data, {"a picture of the library is damaged", cat("row ", row),
                             "its bytes do not have the hash that was recorded", "run `divergen repair` on its run"});
    check_record(instance, tables, table, row, "");
    instances.push_back(std::move(instance));
  }
  if (tables_out != nullptr) *tables_out = tables;
  return instances;
}

void write_library_shard(const Path& file, const std::vector<Instance>& instances, const LibraryTables& tables) {
  write_streamed_table(
      columns_of(instances, tables), lengths_of(instances),
      [&](std::size_t row) -> std::string_view { return instances[row].png; }, file);
}

std::vector<Instance> read_library_shard(const Path& file, LibraryTables* tables) {
  return instances_of(read_table(file), tables);
}

std::vector<Path> library_shards(const Path& folder) {
  std::vector<Path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("shard-") && name.ends_with(".h5")) files.push_back(entry.path());
  }
  if (error)
    fail(ErrorKind::Io, {"cannot list a library", folder.string(), error.message(), "name the folder of a library"});
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace divergen::store
