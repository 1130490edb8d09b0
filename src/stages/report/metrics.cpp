#include <array>

#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "stages/report/balance.hpp"
#include "stages/report/facts.hpp"
#include "stages/report/report.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;
using report::Balance;
using report::balance_of;
using report::total_of;

constexpr int kSchema = 1;
constexpr std::array<const char*, 9> kSummaries{"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"};

json summary_json(const std::map<std::string, double>& summary) {
  json out = json::object();
  for (const char* key : kSummaries) out[key] = report::value_of(summary, key);
  return out;
}

/// A fused run makes pictures and masks in one pass: its record tells how the time divides, so that the stages can be
/// read as those of any other run.
void add_fused_parts(json& stages, const StageRecord& fused) {
  const auto part = [&](const char* stage, const char* share, const char* reason) {
    if (stages.contains(stage)) return;
    const auto found = fused.figures.find(share);
    json rejected = json::object();
    if (const auto count = fused.rejected.find(reason); count != fused.rejected.end()) rejected[reason] = count->second;
    stages[stage] = {{"seconds", found == fused.figures.end() ? 0.0 : found->second * fused.seconds},
                     {"items", fused.items},
                     {"rejected", rejected}};
  };
  part("generate", "generate_share", "failed");
  part("annotate", "annotate_share", "unreadable");
}

json balance_json(const Balance& one) {
  return {{"planned", one.planned}, {"retries", one.retries}, {"failed", one.failed},
          {"made", one.made},       {"kept", one.kept},       {"rejected", one.rejected}};
}

/// From plan to library, in all and of every category.
json items_json(const RunDirectory& dir) {
  const auto balances = balance_of(dir);
  const Balance total = total_of(balances);
  json out = balance_json(total);
  if (!total.adds_up()) log::warn("the counts of items do not add up from plan to library");
  json categories = json::object();
  for (const auto& [id, one] : balances)
    if (one.planned > 0) categories[std::to_string(id)] = balance_json(one);
  out["categories"] = std::move(categories);
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
  if (const StageRecord* fused = facts.record("fused")) add_fused_parts(root["stages"], *fused);
  if (facts.record("pool") != nullptr) {
    try {
      root["items"] = items_json(dir);
    } catch (const std::exception& problem) {  // a shard that is gone: the library stands without it
      log::warn("metrics.json leaves out what became of each category's items: ", problem.what());
    }
  }
  make_folder(dir.root());
  write_file_atomic(dir.metrics(), root.dump(1) + "\n");
}

}  // namespace divergen::stages
