// What an export says of itself: Croissant 1.0 for programs, a datasheet for people.

#include <algorithm>
#include <ctime>
#include <map>

#include "base/error.hpp"
#include "base/text.hpp"
#include "store/exchange/export_parts.hpp"

namespace divergen::store {
namespace {

using nlohmann::json;

constexpr const char* kUnknownLicense =
    "not stated; the licences of the generators' weights and of the prompts apply to what was made with them";

/// The context that the Croissant 1.0 specification prescribes.
json context() {
  return {{"@language", "en"},
          {"@vocab", "https://schema.org/"},
          {"citeAs", "cr:citeAs"},
          {"column", "cr:column"},
          {"conformsTo", "dct:conformsTo"},
          {"cr", "http://mlcommons.org/croissant/"},
          {"rai", "http://mlcommons.org/croissant/RAI/"},
          {"data", {{"@id", "cr:data"}, {"@type", "@json"}}},
          {"dataType", {{"@id", "cr:dataType"}, {"@type", "@vocab"}}},
          {"dct", "http://purl.org/dc/terms/"},
          {"equivalentProperty", "cr:equivalentProperty"},
          {"examples", {{"@id", "cr:examples"}, {"@type", "@json"}}},
          {"extract", "cr:extract"},
          {"field", "cr:field"},
          {"fileProperty", "cr:fileProperty"},
          {"fileObject", "cr:fileObject"},
          {"fileSet", "cr:fileSet"},
          {"format", "cr:format"},
          {"includes", "cr:includes"},
          {"isLiveDataset", "cr:isLiveDataset"},
          {"jsonPath", "cr:jsonPath"},
          {"key", "cr:key"},
          {"md5", "cr:md5"},
          {"parentField", "cr:parentField"},
          {"path", "cr:path"},
          {"recordSet", "cr:recordSet"},
          {"references", "cr:references"},
          {"regex", "cr:regex"},
          {"repeated", "cr:repeated"},
          {"replace", "cr:replace"},
          {"samplingRate", "cr:samplingRate"},
          {"sc", "https://schema.org/"},
          {"separator", "cr:separator"},
          {"source", "cr:source"},
          {"subField", "cr:subField"},
          {"transform", "cr:transform"}};
}

/// The scalar fields of a line of instances.jsonl.
json fields() {
  static constexpr struct {
    const char *name, *type, *meaning;
  } kFields[] = {
      {"file", "sc:Text", "where the picture is; in a tar: tar/member"},
      {"item_id", "sc:Text", "16 hex digits, unique in the data set"},
      {"category_id", "sc:Integer", "as in the data set that it was made for (LVIS: from 1)"},
      {"category", "sc:Text", "name of the category"},
      {"frequency", "sc:Text", "LVIS's r, c or f"},
      {"is_extra", "sc:Boolean", "whether the category is outside the evaluated set"},
      {"prompt", "sc:Text", "text that the picture was made from"},
      {"generator", "sc:Text", "name of the generator"},
      {"generator_kind", "sc:Text", "kind of model"},
      {"weights_hash", "sc:Text", "XXH3-128 over the files of its weights"},
      {"sampler", "sc:Text", "sampler of the diffusion"},
      {"steps", "sc:Integer", "steps of the sampler"},
      {"guidance", "sc:Float", "scale of classifier-free guidance"},
      {"sample", "sc:Integer", "which picture of this prompt"},
      {"attempt", "sc:Integer", "0: as planned; n: the n-th further sample of one whose pictures before were rejected"},
      {"seed", "sc:Text", "16 hex digits, of the picture's noise"},
      {"width", "sc:Integer", "of the cut-out, px"},
      {"height", "sc:Integer", "of the cut-out, px"},
      {"area", "sc:Integer", "px of the object"},
      {"similarity", "sc:Float", "mean CLIP cosine to real crops of the category; -1: there are none"},
      {"clip_score", "sc:Float", "CLIP logit of picture and category"},
      {"flags", "sc:Integer", "1: touches the border of its picture; 2: smaller parts were dropped"},
      {"png_hash", "sc:Text", "XXH3-64 of the cut-out's PNG in the library"},
      {"record_hash", "sc:Text", "XXH3-64 of the whole record"},
  };
  json out = json::array();
  for (const auto& field : kFields)
    out.push_back({{"@type", "cr:Field"},
                   {"@id", cat("instances/", field.name)},
                   {"name", field.name},
                   {"description", field.meaning},
                   {"dataType", field.type},
                   {"source", {{"fileObject", {{"@id", "instances.jsonl"}}}, {"extract", {{"column", field.name}}}}}});
  return out;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &parts);
  return text;
}

std::string summary(const Export& work) {
  return cat(with_thousands(static_cast<std::int64_t>(work.entries.size())),
             " objects cut out of pictures that text-to-image models made, for training of long-tailed instance "
             "segmentation; each with its prompt, generator, seed and scores.");
}

json croissant(const Export& work) {
  json distribution = json::array();
  for (const ExportedFile& file : work.files)
    distribution.push_back({{"@type", "cr:FileObject"},
                            {"@id", file.path},
                            {"name", file.path},
                            {"contentUrl", file.path},
                            {"contentSize", cat(file.size, " B")},
                            {"encodingFormat", file.type},
                            {"sha256", file.sha256}});
  for (const ExportedSet& set : work.sets)
    distribution.push_back({{"@type", "cr:FileSet"},
                            {"@id", set.id},
                            {"name", set.id},
                            {"description", cat(set.count, " files, ", set.size, " bytes")},
                            {"encodingFormat", set.type},
                            {"includes", set.glob}});
  const std::string license = work.options.license.empty() ? kUnknownLicense : work.options.license;
  return {{"@context", context()},
          {"@type", "sc:Dataset"},
          {"conformsTo", "http://mlcommons.org/croissant/1.0"},
          {"name", work.options.name},
          {"description", summary(work)},
          {"license", license},
          {"url", cat("urn:divergen:library:", work.library.hash())},
          {"creator", {{"@type", "sc:Organization"}, {"name", work.library.tables().software}}},
          {"datePublished", today()},
          {"version", "1.0.0"},
          {"citeAs", cat("divergen instance library ", work.library.hash())},
          {"isLiveDataset", false},
          {"distribution", distribution},
          {"recordSet", json::array({{{"@type", "cr:RecordSet"},
                                      {"@id", "instances"},
                                      {"name", "instances"},
                                      {"description", "one record an instance"},
                                      {"key", {{"@id", "instances/item_id"}}},
                                      {"field", fields()}}})}};
}

/// What the datasheet counts.
struct Counts {
  std::map<std::string, std::int64_t> by_generator, by_frequency, prompts_of_generator;
  std::int64_t extra = 0, touches_border = 0, without_reference = 0;
  std::map<std::int32_t, std::int64_t> by_category;
  double similarity = 0;
};

Counts count(const Export& work) {
  Counts out;
  const LibraryTables& tables = work.library.tables();
  std::map<std::int32_t, const LibraryCategory*> categories;
  for (const LibraryCategory& category : tables.categories) categories[category.id] = &category;
  for (const std::size_t i : work.entries) {
    const Library::Entry entry = work.library.entry(i);
    ++out.by_category[entry.category_id];
    ++out.by_generator[tables.generators.at(static_cast<std::size_t>(entry.generator)).name];
    out.touches_border += (entry.flags & kTouchesBorder) != 0;
    const auto found = categories.find(entry.category_id);
    if (found != categories.end()) {
      ++out.by_frequency[found->second->frequency];
      out.extra += found->second->is_extra;
    }
    if (entry.similarity < 0) {
      ++out.without_reference;
    } else {
      out.similarity += entry.similarity;
    }
  }
  return out;
}

std::string generators_text(const LibraryTables& tables, const Counts& counts) {
  std::string text =
      "| generator | kind | sampler | steps | guidance | weights | instances |\n|---|---|---|---|---|---|---|\n";
  for (const LibraryGenerator& g : tables.generators) {
    const auto found = counts.by_generator.find(g.name);
    if (found == counts.by_generator.end()) continue;
    text += cat("| ", markdown_escape(g.name), " | ", markdown_escape(g.kind), " | ", markdown_escape(g.sampler), " | ",
                g.steps, " | ", g.guidance, " | `", markdown_escape(g.weights_hash), "` | ",
                with_thousands(found->second), " |\n");
  }
  return text;
}

std::string categories_text(const LibraryTables& tables, const Counts& counts) {
  std::string text = "| id | category | frequency | instances |\n|---|---|---|---|\n";
  for (const LibraryCategory& category : tables.categories) {
    const auto found = counts.by_category.find(category.id);
    if (found == counts.by_category.end()) continue;
    text += cat("| ", category.id, " | ", markdown_escape(category.name), category.is_extra ? " (extra)" : "", " | ",
                markdown_escape(category.frequency), " | ", with_thousands(found->second), " |\n");
  }
  return text;
}

std::string files_text(const Export& work) {
  std::string text = "| file | what | bytes |\n|---|---|---|\n";
  for (const ExportedFile& file : work.files)
    text +=
        cat("| `", file.path, "` | ", file.type, " | ", with_thousands(static_cast<std::int64_t>(file.size)), " |\n");
  for (const ExportedSet& set : work.sets)
    text += cat("| `", set.glob, "` | ", with_thousands(set.count), " files, ", set.type, " | ",
                with_thousands(static_cast<std::int64_t>(set.size)), " |\n");
  return text;
}

/// After the questions of "Datasheets for Datasets" (Gebru et al.), as far as the library answers them.
std::string datasheet(const Export& work) {
  const Counts counts = count(work);
  const LibraryTables& tables = work.library.tables();
  const auto size = static_cast<std::int64_t>(work.entries.size());
  const std::int64_t with_reference = size - counts.without_reference;
  std::string groups;
  for (const auto& [frequency, number] : counts.by_frequency)
    groups += cat(groups.empty() ? "" : ", ", frequency.empty() ? "none" : markdown_escape(frequency), " ",
                  with_thousands(number));
  return cat(
      "# Datasheet: ", markdown_escape(work.options.name), "\n\n", summary(work), "\n\n## Motivation\n\n",
      "Pasted into real training images, generated objects help detectors with categories of which few real examples "
      "exist (X-Paste, ICML 2023; DiverGen, CVPR 2024).\n\n## Composition\n\n",
      "* instances: ", with_thousands(size), " of ", counts.by_category.size(),
      " categories; by frequency group: ", groups, "; of extra categories: ", with_thousands(counts.extra),
      "\n* each: an RGBA cut-out with its prompt, generator, seed, ",
      "place in the generated picture, and scores (`instances.jsonl`)\n* similarity to real crops: mean ",
      with_reference > 0 ? fixed(counts.similarity / static_cast<double>(with_reference), 3) : "-", " over the ",
      with_thousands(with_reference),
      " whose category has real crops\n* touching the border of their picture: ", with_thousands(counts.touches_border),
      "\n* library hash: `", work.library.hash(), "`\n* people: pictures are ",
      "synthetic; categories that show people may show ones that look like somebody\n\n", files_text(work),
      "\n## Collection\n\nNo picture was collected: text-to-image models made them from the prompts.\n\n",
      generators_text(tables, counts), "\n## Processing\n\n* cut out by the annotator with the weights `",
      markdown_escape(tables.annotator_hash), "`\n* compared with real crops by CLIP, weights `",
      markdown_escape(tables.clip_hash), "`\n* settings `", markdown_escape(tables.config_hash), "`, software ",
      markdown_escape(tables.software), "\n* format of this export: ", work.options.format, "\n\n## Uses\n\n",
      "Copy-paste training of detectors and segmenters. Not for evaluation: what a generator shows of a category is "
      "not ",
      "how the category looks. Its biases are those of the models and prompts named above.\n\n## "
      "Distribution\n\nLicence: ",
      markdown_escape(work.options.license.empty() ? kUnknownLicense : work.options.license),
      "\n\n## Maintenance\n\nMade again by the same run configuration: every instance follows from its record ",
      "(`divergen reproduce`). `divergen diff` compares two libraries.\n\n## Categories\n\n",
      categories_text(tables, counts));
}

}  // namespace

std::string markdown_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += ' ';  // a line's end would end the table's row
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      if (std::string_view("\\`*_{}[]()#+-.!|~").find(c) != std::string_view::npos) out += '\\';
      out += c;
    }
  }
  return out;
}

void describe(const Export& work) {
  work.folder.write("croissant.json", croissant(work).dump(2) + "\n");
  work.folder.write("datasheet.md", datasheet(work));
}

}  // namespace divergen::store
