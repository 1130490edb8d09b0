// Sections that show pictures: generated instances, training samples, detections.

#include <algorithm>
#include <set>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/page.hpp"
#include "stages/report/sections.hpp"

namespace divergen::stages::report {
namespace {

constexpr std::size_t kMostRows = 40;     // categories shown of each frequency group
constexpr std::size_t kMostSamples = 12;  // training samples shown of each training
constexpr std::size_t kMostDetections = 12, kOpenDetections = 4;
constexpr int kSampleWidth = 320, kDetectionWidth = 640;  // px stored
constexpr int kQuality = 84;

std::string words(std::string reason) {
  std::replace(reason.begin(), reason.end(), '_', ' ');
  return reason;
}

std::string tile_html(const Tile& tile, bool judged) {
  std::string tip = tile.prompt;
  if (!tile.generator.empty()) tip += cat(tip.empty() ? "" : "\n", tile.generator);
  if (judged) {
    if (tile.similarity > -1) tip += cat("\nsimilarity ", fixed(tile.similarity, 3));
    tip +=
        cat("\nCLIP score ", fixed(tile.clip_score, 2), "\nmask ", fixed(100 * tile.area_share, 1), " % of the frame");
  }
  const bool kept = tile.reason.empty();
  std::string caption;
  if (!kept) caption = html_escape(words(tile.reason));
  else if (judged) caption = tile.similarity > -1 ? fixed(tile.similarity, 2) : "–";
  return cat("<figure class=\"tile", kept ? "" : " no", "\" title=\"", html_escape(tip), "\"><img src=\"", tile.uri,
             "\" alt=\"", html_escape(tile.prompt.empty() ? "generated picture" : tile.prompt), "\" loading=\"lazy\">",
             caption.empty() ? "" : cat("<figcaption>", caption, "</figcaption>"), "</figure>");
}

std::string row_html(const SheetRow& row, const std::string& name, bool judged) {
  std::string tiles;
  for (const Tile& tile : row.kept_tiles) tiles += tile_html(tile, judged);
  if (!row.kept_tiles.empty() && !row.rejected_tiles.empty()) tiles += "<span class=\"gap\"></span>";
  for (const Tile& tile : row.rejected_tiles) tiles += tile_html(tile, judged);
  return cat("<div class=\"sheet\"><div class=\"who\">", html_escape(name), "<span>",
             judged ? cat(row.kept, " of ", row.seen, " kept") : cat(row.seen, " made"),
             "</span></div><div class=\"tiles\">", tiles, "</div></div>\n");
}

struct NamedRow {
  std::string name;
  const SheetRow* row;
};

/// Rows by group, each sorted by name.
std::vector<NamedRow> rows_of_group(const RunFacts& facts, const ContactSheets& sheets, const std::string& group) {
  std::vector<NamedRow> rows;
  for (const SheetRow& row : sheets.rows) {
    const CategoryFact* category = facts.category(row.category_id);
    const std::string own = category == nullptr ? "other" : frequency_name(category->frequency, category->is_extra);
    if (own == group) rows.push_back({category == nullptr ? cat("category ", row.category_id) : category->name, &row});
  }
  std::sort(rows.begin(), rows.end(), [](const NamedRow& a, const NamedRow& b) { return a.name < b.name; });
  return rows;
}

std::vector<Path> pictures_in(const Path& folder) {
  std::vector<Path> files;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent)) {
    const auto extension = entry.path().extension();
    if (extension == ".png" || extension == ".jpg" || extension == ".jpeg") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// "" when the file cannot be read as a picture or the page is full.
std::string picture_html(const Path& file, int width, const std::string& words, PictureBudget& budget) {
  const image::Decoded decoded = image::decode(read_file(file));
  if (!decoded.image) return "";
  const std::string html = cat("<figure><img src=\"", jpeg_uri(shrunk(*decoded.image, width), kQuality), "\" alt=\"",
                               html_escape(words), "\" loading=\"lazy\"></figure>");
  return budget.take(html) ? html : "";
}

}  // namespace

std::string sheets_section(const RunFacts& facts, const ContactSheets& sheets, PictureBudget& budget) {
  if (sheets.rows.empty()) return "";
  std::string out = "<p>Each tile is a generated picture and, below it, the object as its mask cuts it out. ";
  if (sheets.judged)
    out +=
        "Under kept ones stands the similarity to real crops of the category (a dash where there are none to compare "
        "with), under rejected ones the reason. ";
  out += "Rest the pointer on a tile to read its prompt.</p>\n";
  if (sheets.shards_read < sheets.shards)
    out += note(cat("Chosen from ", sheets.shards_read, " of ", sheets.shards, " shards, evenly spread over the run."));
  bool is_first = true, is_full = false;
  for (const char* group : {"rare", "common", "frequent", "other", "extra"}) {
    const auto rows = rows_of_group(facts, sheets, group);
    if (rows.empty()) continue;
    std::string body;
    std::size_t shown = 0;
    for (const NamedRow& row : rows) {
      if (shown == kMostRows || is_full) break;
      const std::string html = row_html(*row.row, row.name, sheets.judged);
      is_full = !budget.take(html);
      if (is_full) break;
      body += html;
      ++shown;
    }
    const std::string count = cat(shown < rows.size() ? cat(shown, " of ", rows.size()) : std::to_string(rows.size()),
                                  rows.size() == 1 ? " category" : " categories");
    const std::string badge = cat("<span class=\"badge ", group, "\">", group, "</span>");
    out += fold(cat(badge, " <span class=\"dim\">", count, "</span>"), body, is_first);
    is_first = false;
  }
  return out;
}

std::string samples_section(const RunFacts& facts, const RunDirectory& dir, PictureBudget& budget) {
  std::string out;
  for (const auto& training : facts.trainings) {
    std::string pictures;
    std::size_t shown = 0;
    for (const Path& file : pictures_in(dir.training(training.name) / "samples")) {
      if (shown == kMostSamples) break;
      const std::string html = picture_html(file, kSampleWidth, "training sample", budget);
      pictures += html;
      shown += !html.empty();
    }
    if (!pictures.empty())
      out += fold(cat(html_escape(training.name), " <span class=\"dim\">",
                      training.uses_pool ? "with generated instances" : "real objects only", "</span>"),
                  cat("<div class=\"pictures\">", pictures, "</div>\n"),
                  training.uses_pool || facts.trainings.size() == 1);
  }
  if (out.empty()) return "";
  return "<p>What the detector is fed: images after resize-crop and flip, with outlines. Real objects are green, "
         "pasted "
         "generated ones magenta.</p>\n" +
         out;
}

std::string detections_section(const RunFacts& facts, const RunDirectory& dir, PictureBudget& budget) {
  std::vector<std::string> names;  // the two of the answer, else whatever there is
  for (const EvaluationFact* e : {facts.without(), facts.with()})
    if (e != nullptr && !pictures_in(dir.evaluation(e->name) / "pictures").empty()) names.push_back(e->name);
  if (names.empty()) return "";
  std::vector<Path> files;
  for (const Path& file : pictures_in(dir.evaluation(names.front()) / "pictures")) {
    const bool in_all = std::all_of(names.begin(), names.end(), [&](const std::string& name) {
      return std::filesystem::exists(dir.evaluation(name) / "pictures" / file.filename());
    });
    if (in_all && files.size() < kMostDetections) files.push_back(file.filename());
  }
  const std::string open_grid = names.size() > 1 ? "<div class=\"pairs\">" : "<div class=\"pairs one\">";
  std::string heads, first, rest;
  if (names.size() > 1)
    for (const std::string& name : names) heads += cat("<div class=\"head\">", html_escape(name), "</div>");
  for (std::size_t i = 0; i < files.size(); ++i)
    for (const std::string& name : names)
      (i < kOpenDetections ? first : rest) +=
          picture_html(dir.evaluation(name) / "pictures" / files[i], kDetectionWidth,
                       cat("ground truth and detections of ", name), budget);
  std::string out =
      cat("<p>Validation images: in each picture the ground truth on the left, the detections on the right.</p>\n",
          open_grid, heads, first, "</div>\n");
  if (!rest.empty())
    out += fold(cat(files.size() - kOpenDetections, " more"), cat(open_grid, heads, rest, "</div>\n"), false);
  return out;
}

}  // namespace divergen::stages::report
