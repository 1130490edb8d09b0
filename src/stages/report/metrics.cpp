#include <array>

#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "stages/report/facts.hpp"
#include "stages/report/report.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;
constexpr std::array<const char*, 9> kSummaries{"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"};

json summary_json(const std::map<std::string, double>& summary) {
  json out = json::object();
  for (const char* key : kSummaries) out[key] = report::value_of(summary, key);
  return out;
}

}  // namespace

void write_metrics(const RunDirectory& dir, const config::RunConfig& config) {
  const report::RunFacts facts = report::gather(dir, config);
  for (const std::string& problem : facts.problems) log::warn("metrics.json leaves something out: ", problem);
  json root{{"schema", kSchema},        {"evaluations", json::object()},    {"library", nullptr},
            {"stages", json::object()}, {"config_hash", facts.config_hash}, {"software", facts.software}};
  for (const auto& e : facts.evaluations) {
    json& entry = root["evaluations"][e.name] = json::object();
    if (!e.box.empty()) entry["bbox"] = summary_json(e.box);
    if (!e.mask.empty()) entry["segm"] = summary_json(e.mask);
  }
  if (facts.library) root["library"] = {{"instances", facts.library->instances}, {"hash", facts.library->hash}};
  for (const StageRecord& record : facts.records)
    if (!facts.is_pass(record))
      root["stages"][record.stage] = {
          {"seconds", record.seconds}, {"items", record.items}, {"rejected", record.rejected}};
  make_folder(dir.root());
  write_file_atomic(dir.metrics(), root.dump(1) + "\n");
}

}  // namespace divergen::stages
