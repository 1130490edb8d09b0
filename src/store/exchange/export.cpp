#include "store/exchange/export.hpp"

#include <algorithm>
#include <set>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/text.hpp"
#include "store/exchange/export_parts.hpp"
#include "store/library_format.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

/// Positions in `list` of what is named; an entry matches by any of its names.
template <class Names>
std::set<std::int32_t> named(const std::vector<std::string>& wanted, const Names& names, const char* what) {
  std::set<std::int32_t> out;
  for (const std::string& one : wanted) {
    const std::size_t before = out.size();
    std::vector<std::string> known;
    for (const auto& [name, id] : names) {
      known.push_back(name);
      if (name == one || (std::string(what) == "category" && std::to_string(id) == one)) out.insert(id);
    }
    if (out.size() != before) continue;
    const std::string near = nearest_word(one, known);
    fail(ErrorKind::Usage,
         {cat("the library has no such ", what), one, near.empty() ? "" : cat("did you mean '", near, "'?"),
          "`divergen inspect --json` lists them"});
  }
  return out;
}

}  // namespace

std::vector<std::size_t> select(const Library& library, const Selection& selection) {
  const LibraryTables& tables = library.tables();
  std::vector<std::pair<std::string, std::int32_t>> categories, generators;
  for (const auto& category : tables.categories) categories.emplace_back(category.name, category.id);
  for (std::size_t g = 0; g < tables.generators.size(); ++g)
    generators.emplace_back(tables.generators[g].name, static_cast<std::int32_t>(g));
  const auto wanted = named(selection.categories, categories, "category");
  const auto makers = named(selection.generators, generators, "generator");
  std::vector<std::size_t> out;
  for (const auto& [category, count] : library.per_category()) {
    if (!wanted.empty() && wanted.count(category) == 0) continue;
    const auto [first, last] = library.range_of(category);
    for (std::size_t i = first; i < last; ++i) {
      const Library::Entry entry = library.entry(i);
      if ((makers.empty() || makers.count(entry.generator) > 0) && entry.similarity >= selection.min_similarity)
        out.push_back(i);
    }
  }
  const auto limit = static_cast<std::size_t>(selection.limit);
  if (limit == 0 || out.size() <= limit) return out;
  std::vector<std::size_t> spread;
  for (std::size_t n = 0; n < limit; ++n) spread.push_back(out[n * out.size() / limit]);
  return spread;
}

void Export::note(const Instance& instance, const std::string& file) {
  json line = instance_to_json(instance, library.tables());
  line["file"] = file;
  instances.write(line.dump() + "\n");
}

json instance_to_json(const Instance& i, const LibraryTables& tables) {
  const LibraryCategory& category = category_by_id(tables, i.category_id);
  const LibraryGenerator& generator = tables.generators.at(static_cast<std::size_t>(i.generator));
  json out = {{"item_id", to_hex(i.item_id)},
              {"category_id", i.category_id},
              {"category", category.name},
              {"frequency", category.frequency},
              {"is_extra", category.is_extra},
              {"prompt", tables.prompts.at(static_cast<std::size_t>(i.prompt))},
              {"generator", generator.name},
              {"generator_kind", generator.kind},
              {"weights_hash", generator.weights_hash},
              {"sampler", generator.sampler},
              {"steps", generator.steps},
              {"guidance", generator.guidance},
              {"sample", i.sample},
              {"attempt", attempt_of(i.sample)},
              {"seed", to_hex(i.seed)},
              {"width", i.width},
              {"height", i.height},
              {"box", {i.box_x, i.box_y, i.width, i.height}},
              {"source_size", {i.source_width, i.source_height}},
              {"area", i.area},
              {"similarity", i.similarity},
              {"clip_score", i.clip_score},
              {"flags", i.flags},
              {"png_hash", to_hex(hash64(i.png))},
              {"record_hash", to_hex(record_hash(i, tables))}};
  if (!i.annotator.empty()) out["annotator"] = i.annotator;
  if (!i.annotator_scores.empty()) {
    json scores = json::object();
    for (const auto& [name, score] : i.annotator_scores) scores[name] = score;
    out["annotator_scores"] = std::move(scores);
  }
  return out;
}

const LibraryCategory& category_by_id(const LibraryTables& tables, std::int32_t id) {
  for (const LibraryCategory& category : tables.categories)
    if (category.id == id) return category;
  fail(ErrorKind::Data, {"an instance has a category that its library does not list", cat("category ", id), "",
                         "run `divergen verify` on it"});
}

ExportSummary export_library(const Library& library, const Path& out, const ExportOptions& options) {
  static const std::vector<std::string> kFormats{"coco", "lvis", "png", "webdataset"};
  if (std::find(kFormats.begin(), kFormats.end(), options.format) == kFormats.end())
    fail(ErrorKind::Usage, {"there is no such format", options.format, "", "use coco, lvis, png or webdataset"});
  const std::vector<std::size_t> entries = select(library, options.selection);
  if (entries.empty())
    fail(ErrorKind::Usage, {"no instance fits the selection", out.string(),
                            cat("the library has ", with_thousands(static_cast<std::int64_t>(library.size()))),
                            "loosen --category, --generator or --min-similarity"});
  OutputFolder folder(out);
  FileStream lines(folder.part() / "instances.jsonl");
  Export work{library, options, entries, folder, lines};
  if (options.format == "coco") export_annotations(work, false);
  if (options.format == "lvis") export_annotations(work, true);
  if (options.format == "png") export_pool(work);
  if (options.format == "webdataset") export_webdataset(work);
  work.files.push_back({"instances.jsonl", "application/jsonlines", lines.close(), lines.size()});

  Table tables;
  tables_to_documents(library.tables(), tables);
  const std::string text = json{
      {"format", "divergen-tables"},
      {"version", 1},
      {"categories", json::parse(tables.documents.at("categories"))},
      {"generators", json::parse(tables.documents.at("generators"))},
      {"attributes", tables.attributes},
      {"library_hash",
       library.hash()}}.dump(1);
  Sha256 hash;
  hash.add(text);
  folder.write("tables.json", text);
  work.files.push_back({"tables.json", "application/json", hash.hex(), text.size()});
  describe(work);
  folder.commit();

  ExportSummary summary;
  summary.instances = static_cast<std::int64_t>(entries.size());
  for (const auto& file : work.files) {
    ++summary.files;
    summary.bytes += file.size;
  }
  for (const auto& set : work.sets) {
    summary.files += set.count;
    summary.bytes += set.size;
  }
  return summary;
}

}  // namespace divergen::store
