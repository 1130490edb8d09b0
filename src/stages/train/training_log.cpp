#include "stages/train/training_log.hpp"

#include <unistd.h>

#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/text.hpp"

namespace divergen::stages {

using nlohmann::json;

double resident_megabytes() {
  // /proc/self/statm: sizes in pages; the second is the resident set.
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  long long total = 0, resident = 0;
  const int read = std::fscanf(file, "%lld %lld", &total, &resident);
  std::fclose(file);
  if (read != 2) return 0;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE)) / (1024.0 * 1024.0);
}

TrainingLog::TrainingLog(Path folder) : file_(folder / "log.jsonl"), board_folder_(folder / "tensorboard") {}

void TrainingLog::rewind(std::int64_t iteration) {
  board_.reset();
  if (!std::filesystem::exists(file_)) return;
  const std::string text = read_file(file_);
  std::string kept;
  for (const std::string& line : split(text, '\n')) {
    const json entry = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!entry.is_object()) continue;
    const auto found = entry.find("iteration");
    if (found != entry.end() && found->is_number_integer() && found->get<std::int64_t>() <= iteration)
      kept += line + "\n";
  }
  if (kept != text) write_file_atomic(file_, kept);
}

void TrainingLog::write(const LogLine& line) {
  json entry{{"iteration", line.iteration}, {"lr", line.lr},
             {"seconds", line.seconds},     {"loss_total", line.loss_total},
             {"data_wait", line.data_wait}, {"images_per_second", line.images_per_second},
             {"memory_mb", line.memory_mb}};
  for (const auto& [name, value] : line.terms) entry[name] = value;
  append_line(file_, entry.dump());

  if (!board_) board_ = std::make_unique<EventFile>(board_folder_, line.iteration);
  std::vector<std::pair<std::string, double>> scalars{{"loss/total", line.loss_total},
                                                      {"train/lr", line.lr},
                                                      {"train/images_per_second", line.images_per_second},
                                                      {"train/data_wait", line.data_wait},
                                                      {"train/memory_mb", line.memory_mb}};
  for (const auto& [name, value] : line.terms) scalars.emplace_back("loss/" + name, value);
  board_->add(line.iteration, scalars);
}

}  // namespace divergen::stages
