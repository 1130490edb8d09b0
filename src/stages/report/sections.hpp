#pragma once
// The page's sections, each from the facts alone (and the pictures it shows). Empty where there is nothing to show.

#include <string>

#include "config/settings.hpp"
#include "stages/report/facts.hpp"
#include "stages/report/pictures.hpp"
#include "stages/report/sheets.hpp"

namespace divergen::stages::report {

std::string hero(const RunFacts& facts);                // question, answer, the four numbers, what is missing
std::string results_section(const RunFacts& facts);     // AP tables and charts
std::string categories_section(const RunFacts& facts);  // gains by category
std::string training_section(const RunFacts& facts, const config::RunConfig& config);  // loss curves
std::string library_section(const RunFacts& facts, const ContactSheets& sheets, const config::RunConfig& config);
std::string sheets_section(const RunFacts& facts, const ContactSheets& sheets, PictureBudget& budget);
std::string samples_section(const RunFacts& facts, const RunDirectory& dir, PictureBudget& budget);
std::string detections_section(const RunFacts& facts, const RunDirectory& dir, PictureBudget& budget);
std::string time_section(const RunFacts& facts);
std::string config_section(const RunFacts& facts);
std::string provenance_section(const RunFacts& facts, const config::RunConfig& config);

}  // namespace divergen::stages::report
