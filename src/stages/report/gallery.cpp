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
constexpr std::size_t kMostTiles = 160;   // of a group of many categories with a picture or two each
constexpr std::size_t kMostSamples = 12;  // training samples shown of each training
constexpr std::size_t kMostDetections = 12, kOpenDetections = 4;
constexpr int kSampleWidth = 320, kDetectionWidth = 640;  // px stored
constexpr int kQuality = 84;

std::string words(std::string reason) {
  std::replace(reason.begin(), reason.end(), '_', ' ');
  return reason;
}

/// `name`: written under the tile, where no row tells whose it is.
std::string tile_html(const Tile& tile, bool judged, const std::string& name = "") {
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
  if (!name.empty()) caption = cat(html_escape(name), kept ? "" : cat("<br>", caption));
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

/// A run with a picture or two of each of very many categories: one sheet of tiles, spread evenly over the names.
bool is_mosaic(const std::vector<NamedRow>& rows) {
  return rows.size() > kMostRows && std::all_of(rows.begin(), rows.end(), [](const NamedRow& row) {
           return row.row->kept_tiles.size() + row.row->rejected_tiles.size() <= 2;
         });
}

struct GroupHtml {
  std::string body;
  std::size_t shown = 0;  // categories
  bool is_full = false;   // the page has no more room
};

GroupHtml mosaic_html(const std::vector<NamedRow>& rows, bool judged, PictureBudget& budget) {
  GroupHtml out;
  const std::size_t most = std::min(rows.size(), kMostTiles);
  for (std::size_t i = 0; i < most && !out.is_full; ++i) {
    const NamedRow& row = rows[i * rows.size() / most];
    const auto& tiles = row.row->kept_tiles.empty() ? row.row->rejected_tiles : row.row->kept_tiles;
    if (tiles.empty()) continue;
    const std::string html = tile_html(tiles.front(), judged, row.name);
    out.is_full = !budget.take(html);
    if (out.is_full) break;
    out.body += html;
    ++out.shown;
  }
  out.body = cat("<div class=\"tiles mosaic\">", out.body, "</div>\n");
  return out;
}

GroupHtml rows_html(const std::vector<NamedRow>& rows, bool judged, PictureBudget& budget) {
  GroupHtml out;
  for (const NamedRow& row : rows) {
    if (out.shown == kMostRows) break;
    const std::string html = row_html(*row.row, row.name, judged);
    out.is_full = !budget.take(html);
    if (out.is_full) break;
    out.body += html;
    ++out.shown;
  }
  return out;
}

/// "412 of 461 pictures kept": of those that were read.
std::string kept_of(const std::vector<NamedRow>& rows, bool judged) {
  std::int64_t seen = 0, kept = 0;
  for (const NamedRow& row : rows) {
    seen += row.row->seen;
    kept += row.row->kept;
  }
  return judged ? cat(with_thousands(kept), " of ", with_thousands(seen), " pictures kept")
                : cat(with_thousands(seen), " pictures");
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
    const GroupHtml sheet = is_full           ? GroupHtml{"", 0, true}
                            : is_mosaic(rows) ? mosaic_html(rows, sheets.judged, budget)
                                              : rows_html(rows, sheets.judged, budget);
    is_full = sheet.is_full;
    const std::string count =
        cat(sheet.shown < rows.size() ? cat(sheet.shown, " of ", rows.size()) : std::to_string(rows.size()),
            rows.size() == 1 ? " category" : " categories", " · ", kept_of(rows, sheets.judged));
    const std::string badge = cat("<span class=\"badge ", group, "\">", group, "</span>");
    out += fold(cat(badge, " <span class=\"dim\">", count, "</span>"), sheet.body, is_first);
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
