// The instance library: how much there is, of what, and what the filter threw away.

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/charts.hpp"
#include "stages/report/page.hpp"
#include "stages/report/sections.hpp"

namespace divergen::stages::report {
namespace {

std::string words(std::string reason) {
  std::replace(reason.begin(), reason.end(), '_', ' ');
  return reason;
}

/// What became of the generated pictures: from the filter's record, else from the shards that were read.
std::vector<Part> fates(const RunFacts& facts, const ContactSheets& sheets) {
  std::vector<std::pair<std::string, std::int64_t>> rejected;
  std::int64_t kept = 0;
  if (const StageRecord* filter = facts.record("filter")) {
    kept = filter->items;
    for (const auto& [reason, count] : filter->rejected) {
      rejected.emplace_back(reason, count);
      kept -= count;
    }
  } else {
    for (const auto& [reason, count] : sheets.reasons)
      if (reason == "kept") kept = count;
      else rejected.emplace_back(reason, count);
  }
  std::stable_sort(rejected.begin(), rejected.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<Part> parts;
  if (kept > 0) parts.push_back({"kept", "fill-kept", kept});
  for (std::size_t i = 0; i < rejected.size(); ++i)
    if (rejected[i].second > 0)
      parts.push_back({words(rejected[i].first), cat("fill-out", std::min<std::size_t>(i, 4)), rejected[i].second});
  return parts;
}

std::string fates_html(const std::vector<Part>& parts) {
  if (parts.empty()) return "";
  std::int64_t total = 0;
  std::string legend = "<p class=\"legend\">";
  for (const Part& part : parts) {
    total += part.count;
    legend += swatch(part.css, cat(part.label, " ", with_thousands(part.count)));
  }
  return cat("<h3>What became of ", with_thousands(total), " generated pictures</h3>\n",
             figure(share_bar("Kept and rejected pictures", parts), ""), legend, "</p>\n");
}

std::string columns_html(const RunFacts& facts) {
  const LibraryFact& library = *facts.library;
  std::vector<Bar> bars;
  const auto add_group = [&](const std::string& group) {
    std::vector<Bar> own;
    for (const auto& category : facts.categories) {
      if (frequency_name(category.frequency, category.is_extra) != group) continue;
      const auto found = library.per_category.find(category.id);
      const std::int64_t count = found == library.per_category.end() ? 0 : found->second;
      own.push_back({category.name, cat(category.name, ": ", with_thousands(count), " instances"),
                     static_cast<double>(count), "fill-" + group});
    }
    std::stable_sort(own.begin(), own.end(), [](const Bar& a, const Bar& b) { return a.value > b.value; });
    bars.insert(bars.end(), own.begin(), own.end());
  };
  for (const char* group : {"rare", "common", "frequent", "other", "extra"}) add_group(group);
  if (bars.empty()) return "";
  std::string legend = "<p class=\"legend\">";
  for (const char* group : {"rare", "common", "frequent", "other", "extra"})
    if (std::any_of(bars.begin(), bars.end(), [&](const Bar& b) { return b.css == cat("fill-", group); }))
      legend += swatch(cat("fill-", group), group);
  return cat("<h3>Instances of each category</h3>\n", legend, "</p>\n",
             figure(column_chart("Instances of each category", bars), ""));
}

std::string generators_html(const LibraryFact& library) {
  TableHtml table;
  table.head = {"Generator", "kind", "instances"};
  table.first_number = 2;
  for (std::size_t i = 0; i < library.tables.generators.size(); ++i) {
    const auto& generator = library.tables.generators[i];
    const auto found = library.per_generator.find(static_cast<std::int64_t>(i));
    table.rows.push_back({html_escape(generator.name), html_escape(words(generator.kind)),
                          with_thousands(found == library.per_generator.end() ? 0 : found->second)});
  }
  return table.rows.empty() ? "" : table.str();
}

}  // namespace

std::string library_section(const RunFacts& facts, const ContactSheets& sheets, const config::RunConfig& config) {
  std::string out;
  if (facts.library) {
    const LibraryFact& library = *facts.library;
    out += cat("<p><b>", with_thousands(static_cast<std::int64_t>(library.instances)), "</b> instances of ",
               library.per_category.size(), " categories, ", human_bytes(library.bytes),
               ". Library hash <span class=\"mono\">", html_escape(library.hash),
               "</span>: an equal hash means equal instances, whatever the sharding.</p>\n");
  }
  out += fates_html(fates(facts, sheets));
  std::string halves;
  if (!sheets.kept_similarity.empty() || !sheets.rejected_similarity.empty())
    halves += cat("<div><h3>Similarity to real crops</h3>",
                  figure(histogram("Similarity of generated pictures to real crops", sheets.kept_similarity,
                                   sheets.rejected_similarity, config.filter.similarity),
                         cat(swatch("fill-kept", "kept"), swatch("fill-out0", "rejected"),
                             "<br>Mean cosine of CLIP image features, of ",
                             with_thousands(static_cast<std::int64_t>(sheets.kept_similarity.size() +
                                                                      sheets.rejected_similarity.size())),
                             " pictures.")),
                  "</div>");
  if (facts.library) halves += cat("<div><h3>By generator</h3>", generators_html(*facts.library), "</div>");
  if (!halves.empty()) out += cat("<div class=\"two\">", halves, "</div>\n");
  if (facts.library) out += columns_html(facts);
  return out;
}

}  // namespace divergen::stages::report
