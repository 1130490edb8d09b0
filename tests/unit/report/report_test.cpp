#include "stages/report/report.hpp"

#include <set>

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "stages/report/facts.hpp"
#include "stages/report/pictures.hpp"
#include "stages/report/sections.hpp"
#include "stages/report/sheets.hpp"
#include "store/library.hpp"
#include "unit/report/synthetic_run.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;
using testing::make_synthetic_run;
using testing::Parts;
using testing::SyntheticRun;

/// With DIVERGEN_REPORT_DIR set, the runs stay there, to be looked at.
struct Folder {
  Path path;
  bool stays;
  explicit Folder(const std::string& name) {
    const char* kept = std::getenv("DIVERGEN_REPORT_DIR");
    stays = kept != nullptr;
    path = stays ? Path(kept) / name : std::filesystem::temp_directory_path() / cat("divergen-", name, "-", ::getpid());
  }
  ~Folder() {
    std::error_code ignored;
    if (!stays) std::filesystem::remove_all(path, ignored);
  }
};

/// The first thing that is wrong with a page's nesting or links, or "".
std::string fault_of(const std::string& html) {
  static const std::set<std::string> kVoid{"meta", "img", "br"};
  std::vector<std::string> open;
  std::set<std::string> ids;
  std::vector<std::string> targets;
  for (std::size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    if (html.compare(at, 9, "<!DOCTYPE") == 0) continue;
    // The tag ends at the first > outside quotes.
    std::size_t end = at;
    bool quoted = false;
    for (; end < html.size() && (quoted || html[end] != '>'); ++end) quoted ^= html[end] == '"';
    if (end == html.size()) return "a tag that does not end: " + html.substr(at, 60);
    const std::string tag = html.substr(at + 1, end - at - 1);
    if (tag.find('<') != std::string::npos) return "a tag within a tag: " + tag.substr(0, 80);
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1))
        return cat("</", tag.substr(1), "> closes ", open.empty() ? "" : open.back());
      open.pop_back();
      continue;
    }
    if (const auto id = tag.find(" id=\""); id != std::string::npos)
      if (!ids.insert(tag.substr(id + 5, tag.find('"', id + 5) - id - 5)).second) return "an id twice: " + tag;
    for (const char* attribute : {" src=\"", " href=\""}) {
      const auto from = tag.find(attribute);
      if (from == std::string::npos) continue;
      const auto start = tag.find('"', from) + 1;
      const std::string target = tag.substr(start, tag.find('"', start) - start);
      if (target.starts_with("#")) targets.push_back(target.substr(1));
      else if (!target.starts_with("data:image/")) return "a reference to the outside: " + target.substr(0, 80);
    }
    if (name == "script" || name == "link") return "an element that must not be: " + name;
    if (tag.back() == '/' || kVoid.contains(name)) continue;
    open.push_back(name);
    if (name == "style") at = html.find("</style>", end) - 1;
  }
  if (!open.empty()) return "not closed: " + open.back();
  for (const std::string& target : targets)
    if (!ids.contains(target)) return "a link to nowhere: " + target;
  return "";
}

std::size_t count_of(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(FaultOf, FindsFaults) {
  EXPECT_EQ(fault_of("<p>a<br>b <b>c</b></p>"), "");
  EXPECT_NE(fault_of("<p><b>c</p></b>"), "");
  EXPECT_NE(fault_of("<p>"), "");
  EXPECT_NE(fault_of("<img src=\"http://x\">"), "");
  EXPECT_NE(fault_of("<a href=\"#x\">y</a>"), "");
}

TEST(Metrics, AreThoseOfTheRun) {
  const Folder folder("metrics");
  const SyntheticRun run = make_synthetic_run(folder.path);
  write_metrics(run.dir, run.config);
  const json metrics = json::parse(read_file(run.dir.metrics()));
  EXPECT_EQ(metrics.at("schema"), 1);
  ASSERT_EQ(metrics.at("evaluations").size(), 2u);
  const json& with = metrics["evaluations"].at("divergen");
  EXPECT_DOUBLE_EQ(with.at("bbox").at("AP"), 0.21 + 0.031);
  EXPECT_DOUBLE_EQ(with.at("segm").at("APr"), 0.19 - 0.08 + 2 * 0.031);
  EXPECT_EQ(with.at("bbox").at("APl"), -1.0);
  std::set<std::string> names;
  for (const auto& [key, value] : metrics["evaluations"].at("baseline").at("bbox").items()) names.insert(key);
  EXPECT_EQ(names, (std::set<std::string>{"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"}));
  EXPECT_EQ(metrics.at("library").at("instances"), testing::kCategories * (testing::kPicturesEach - 2));
  EXPECT_EQ(metrics.at("library").at("hash"), store::Library(run.dir.library()).hash());
  EXPECT_EQ(metrics.at("stages").at("filter").at("rejected").at("mask_too_small"), testing::kCategories);
  EXPECT_EQ(metrics.at("stages").at("filter").at("items"), testing::kCategories * testing::kPicturesEach);
  EXPECT_EQ(metrics.at("stages").at("train.divergen").at("seconds"), 160);
  EXPECT_EQ(metrics.at("config_hash"), run.config.hash());
  EXPECT_TRUE(metrics.at("software").is_string());
}

TEST(Metrics, CountPassesWithTheirStage) {
  const Folder folder("metrics-passes");
  const SyntheticRun run = make_synthetic_run(folder.path, {true, true, true, false, false, false});
  StageRecord pass;
  pass.stage = "filter.scores";
  pass.seconds = 5;
  write_record(run.dir, pass);
  write_metrics(run.dir, run.config);
  const json stages = json::parse(read_file(run.dir.metrics())).at("stages");
  EXPECT_TRUE(stages.contains("filter"));
  EXPECT_FALSE(stages.contains("filter.scores"));
}

TEST(Report, SaysWhatTheRunFound) {
  const Folder folder("report");
  const SyntheticRun run = make_synthetic_run(folder.path);
  write_report(run.dir, run.config);
  EXPECT_TRUE(std::filesystem::exists(run.dir.metrics()));
  const std::string html = read_file(run.dir.report());
  EXPECT_EQ(fault_of(html), "");
  EXPECT_LT(html.size(), 8'000'000u);
  EXPECT_NE(html.find("Do &lt;generated&gt; instances help?"), std::string::npos);
  EXPECT_NE(html.find("<b>Yes.</b> With 72 generated instances, box AP rises from 21.0 to <b>24.1</b>"),
            std::string::npos);
  EXPECT_NE(html.find("rises from 13.0 to <b>19.2</b>"), std::string::npos);  // rare
  EXPECT_EQ(html.find("Not in this report yet"), std::string::npos);
  EXPECT_EQ(html.find("Damaged or unreadable"), std::string::npos);
  for (const char* part : {"unlike real crops", "mask too small", "loss_mask", "0123456789abcdef0123456789abcdef",
                           "node2", "divergen test", "run 7 · baseline 42", "prefers-color-scheme"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  EXPECT_EQ(count_of(html, "class=\"tile no\""), 2u * testing::kCategories);
  EXPECT_EQ(count_of(html, "class=\"tile\""), 6u * testing::kCategories);
  EXPECT_EQ(count_of(html, "alt=\"training sample\""), 12u);
  EXPECT_EQ(count_of(html, "alt=\"ground truth and detections"), 8u);
  // The same run gives the same page.
  write_report(run.dir, run.config);
  EXPECT_EQ(read_file(run.dir.report()), html);
}

TEST(Report, OfAnEmptyRunSaysWhatIsMissing) {
  const Folder folder("report-empty");
  const SyntheticRun run = make_synthetic_run(folder.path, {false, false, false, false, false, false});
  write_report(run.dir, run.config);
  const std::string html = read_file(run.dir.report());
  EXPECT_EQ(fault_of(html), "");
  EXPECT_NE(html.find("no training has been evaluated"), std::string::npos);
  EXPECT_NE(html.find("stage generate is not complete"), std::string::npos);
  EXPECT_NE(html.find("training “divergen” has not begun"), std::string::npos);
  const json metrics = json::parse(read_file(run.dir.metrics()));
  EXPECT_TRUE(metrics.at("evaluations").empty());
  EXPECT_TRUE(metrics.at("library").is_null());
}

TEST(Report, OfHalfARunShowsThatHalf) {
  const Folder folder("report-half");
  const SyntheticRun run = make_synthetic_run(folder.path, {true, true, false, false, true, false});
  write_report(run.dir, run.config);
  const std::string html = read_file(run.dir.report());
  EXPECT_EQ(fault_of(html), "");
  EXPECT_NE(html.find("only “baseline”, trained without generated instances"), std::string::npos);
  EXPECT_NE(html.find("8 made"), std::string::npos);  // tiles without verdicts
  EXPECT_EQ(count_of(html, "class=\"tile no\""), 0u);
  EXPECT_NE(html.find("stage filter is not complete"), std::string::npos);
  EXPECT_EQ(html.find("stage annotate is not complete"), std::string::npos);
}

TEST(Report, NamesTrainingsThatTheConfigurationDoesNotKnow) {
  const Folder folder("report-renamed");
  const SyntheticRun run = make_synthetic_run(folder.path);
  std::filesystem::rename(run.dir.evaluation("divergen"), run.dir.evaluation("three generators"));
  write_report(run.dir, run.config);
  const std::string html = read_file(run.dir.report());
  EXPECT_EQ(fault_of(html), "");
  EXPECT_EQ(count_of(html, "<b>Gain</b>"), 2u);
  EXPECT_NE(html.find("“three generators” against “baseline”"), std::string::npos);
  EXPECT_NE(html.find("training “divergen” has not been evaluated"), std::string::npos);
}

TEST(Report, LeavesDamagedPartsOutAndSaysSo) {
  const Folder folder("report-damaged");
  const SyntheticRun run = make_synthetic_run(folder.path);
  write_file_atomic(run.dir.shard("generate", 1), "this is no table");
  write_file_atomic(run.dir.evaluation("baseline") / "metrics.json", "{\"bbox\":");
  write_file_atomic(run.dir.record("filter"), "{}");
  write_file_atomic(run.dir.library() / "index.h5", "nor is this");
  write_file_atomic(run.dir.training("divergen") / "samples/sample-0000.png", "no picture");
  write_report(run.dir, run.config);
  const std::string html = read_file(run.dir.report());
  EXPECT_EQ(fault_of(html), "");
  const auto box = html.find("Damaged or unreadable");
  ASSERT_NE(box, std::string::npos);
  for (const char* part : {"shard-000001.h5", "metrics of evaluation baseline", "record of stage filter", "library"})
    EXPECT_NE(html.find(part, box), std::string::npos) << part;
  const json metrics = json::parse(read_file(run.dir.metrics()));
  EXPECT_EQ(metrics.at("evaluations").size(), 1u);
  EXPECT_FALSE(metrics.at("stages").contains("filter"));
}

TEST(Sheets, ChooseWithinTheirLimits) {
  const Folder folder("sheets");
  const SyntheticRun run = make_synthetic_run(folder.path, {true, true, true, false, false, false});
  const auto sheets = report::read_sheets(run.dir, {3, 2, 1});
  EXPECT_EQ(sheets.shards, 6u);
  EXPECT_EQ(sheets.shards_read, 3u);
  EXPECT_TRUE(sheets.judged);
  ASSERT_EQ(sheets.rows.size(), 6u);  // two categories a shard
  for (const auto& row : sheets.rows) {
    EXPECT_EQ(row.seen, 8);
    EXPECT_EQ(row.kept, 6);
    EXPECT_EQ(row.kept_tiles.size(), 2u);
    EXPECT_EQ(row.rejected_tiles.size(), 1u);
    EXPECT_NE(row.kept_tiles[0].prompt.find("a photo of a single"), std::string::npos);
  }
  EXPECT_EQ(sheets.reasons.at("kept"), 36);
  EXPECT_EQ(sheets.kept_similarity.size(), 36u);
}

TEST(Sheets, OfVeryManyCategoriesWithAPictureEachAreOneSheetOfAGroup) {
  const auto page_of = [](int categories, std::size_t room) {
    report::ContactSheets sheets;
    sheets.judged = true;
    for (int id = 1; id <= categories; ++id) {
      report::SheetRow row{id, 1, id % 4 != 0, {}, {}};
      report::Tile tile;
      tile.uri = cat("data:image/jpeg;base64,", id);
      if (id % 4 == 0) tile.reason = "unlike_real_crops";
      (id % 4 == 0 ? row.rejected_tiles : row.kept_tiles).push_back(tile);
      sheets.rows.push_back(row);
    }
    report::PictureBudget budget(room);
    return report::sheets_section({}, sheets, budget);
  };
  const auto tiles_of = [](const std::string& html) {
    std::size_t count = 0;
    for (std::size_t at = html.find("<figure"); at != std::string::npos; at = html.find("<figure", at + 1)) ++count;
    return count;
  };
  const std::string all = page_of(100, 1 << 20);
  EXPECT_EQ(fault_of(all), "");
  EXPECT_EQ(tiles_of(all), 100u);
  EXPECT_NE(all.find("mosaic"), std::string::npos);
  EXPECT_NE(all.find("100 categories · 75 of 100 pictures kept"), std::string::npos) << all.substr(0, 600);
  EXPECT_NE(all.find("category 100<br>unlike real crops"), std::string::npos);
  const std::string some = page_of(800, 1 << 20);
  EXPECT_EQ(tiles_of(some), 160u);
  EXPECT_NE(some.find("160 of 800 categories · 600 of 800 pictures kept"), std::string::npos);
  EXPECT_NE(some.find("category 1<"), std::string::npos) << "from the first ...";
  EXPECT_LT(tiles_of(page_of(100, 5000)), 100u) << "no more than the page has room for";
  EXPECT_EQ(page_of(30, 1 << 20).find("mosaic"), std::string::npos) << "few categories have a row each";
}

}  // namespace
}  // namespace divergen::stages
