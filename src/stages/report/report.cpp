#include "stages/report/report.hpp"

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "stages/report/facts.hpp"
#include "stages/report/page.hpp"
#include "stages/report/sections.hpp"
#include "stages/report/sheets.hpp"

namespace divergen::stages {
namespace {

using namespace report;

// Base64 characters of pictures; with text and drawings the page stays under 8 MB. Detections and samples take theirs
// first: they are few, and contact sheets can be cut at any row.
constexpr std::size_t kAllPictures = 6'800'000, kDetections = 1'800'000, kSamples = 1'200'000;

}  // namespace

void write_report(const RunDirectory& dir, const config::RunConfig& config) {
  write_metrics(dir, config);
  RunFacts facts = gather(dir, config);
  const ContactSheets sheets = read_sheets(dir);
  for (const std::string& problem : sheets.problems) facts.problems.push_back(problem);
  PictureBudget detections(kDetections), samples(kSamples), tiles(kAllPictures - kDetections - kSamples);
  const std::vector<Section> sections{
      {"results", "Results", results_section(facts)},
      {"categories", "Category by category", categories_section(facts)},
      {"detections", "Detections", detections_section(facts, dir, detections)},
      {"library", "The instance library", library_section(facts, sheets, config)},
      {"instances", "Generated instances", sheets_section(facts, sheets, tiles)},
      {"samples", "Training samples", samples_section(facts, dir, samples)},
      {"training", "Training", training_section(facts, config)},
      {"time", "Time and throughput", time_section(facts)},
      {"provenance", "Provenance", provenance_section(facts, config)},
      {"configuration", "Configuration", config_section(facts)},
  };
  const std::string title = facts.title.empty() ? "divergen report" : facts.title;
  const std::string html = page(title, hero(facts), sections,
                                cat("Made by ", html_escape(facts.software), " from ", html_escape(dir.root().string()),
                                    ". The same numbers for machines are in metrics.json beside this page."));
  write_file_atomic(dir.report(), html);
  log::debug("report.html has ", human_bytes(html.size()));
}

}  // namespace divergen::stages
