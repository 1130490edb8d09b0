#include "stages/common/starts.hpp"

#include <nlohmann/json.hpp>

#include "base/text.hpp"

namespace divergen::stages {

using nlohmann::json;

void StartsJournal::append(double seconds) const {
  make_folder(file_.parent_path());
  append_line(file_, json{{"fingerprint", fingerprint_}, {"seconds", seconds}}.dump());
}

double StartsJournal::seconds() const {
  double sum = 0;
  if (!std::filesystem::exists(file_)) return sum;
  for (const std::string& line : split(read_file(file_), '\n')) {
    const json entry = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!entry.is_object()) continue;
    const auto fingerprint = entry.find("fingerprint"), seconds = entry.find("seconds");
    if (fingerprint == entry.end() || *fingerprint != fingerprint_) continue;
    if (seconds != entry.end() && seconds->is_number()) sum += seconds->get<double>();
  }
  return sum;
}

}  // namespace divergen::stages
