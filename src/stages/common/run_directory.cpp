#include "stages/common/run_directory.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;

/// Place of a stage in the pipeline; "train.baseline" counts as "train", what is unknown comes last.
std::size_t order_of(const std::string& stage) {
  static constexpr std::array<const char*, 10> kOrder{"plan", "generate", "annotate", "fused",    "filter",
                                                      "pool", "retry",    "train",    "evaluate", "report"};
  const std::string base = stage.substr(0, stage.find('.'));
  return static_cast<std::size_t>(std::find(kOrder.begin(), kOrder.end(), base) - kOrder.begin());
}

json to_json(const StageRecord& record) {
  json ranks = json::array();
  for (const RankShare& r : record.ranks)
    ranks.push_back({{"rank", r.rank},
                     {"host", r.host},
                     {"items", r.items},
                     {"busy_seconds", r.busy_seconds},
                     {"start", r.start},
                     {"end", r.end},
                     {"wait_seconds", r.wait_seconds},
                     {"device", r.device},
                     {"quarantined", r.quarantined}});
  json out{{"schema", kSchema},
           {"stage", record.stage},
           {"fingerprint", record.fingerprint},
           {"seconds", record.seconds},
           {"items", record.items},
           {"rejected", record.rejected},
           {"ranks", ranks},
           {"item_seconds", {{"bins", record.item_seconds.bins()}, {"sum", record.item_seconds.sum()}}},
           {"figures", record.figures}};
  if (!record.parts.empty()) out["parts"] = record.parts;
  return out;
}

StageRecord from_json(const json& from) {
  StageRecord record;
  record.stage = from.at("stage");
  record.fingerprint = from.at("fingerprint");
  record.seconds = from.at("seconds");
  record.items = from.at("items");
  record.rejected = from.at("rejected").get<std::map<std::string, std::int64_t>>();
  for (const json& r : from.at("ranks")) {
    // The last three came later: records without them stay readable.
    record.ranks.push_back({r.at("rank"), r.at("host"), r.at("items"), r.at("busy_seconds"), r.at("start"), r.at("end"),
                            r.value("wait_seconds", 0.0), r.value("device", ""), r.value("quarantined", "")});
  }
  if (const auto times = from.find("item_seconds"); times != from.end())  // absent in records of earlier versions
    record.item_seconds =
        LogHistogram::from_bins(times->at("bins").get<std::vector<std::pair<int, std::int64_t>>>(), times->at("sum"));
  if (from.contains("parts")) record.parts = from.at("parts").get<std::vector<std::string>>();
  record.figures = from.at("figures").get<std::map<std::string, double>>();
  return record;
}

}  // namespace

std::optional<Straggler> straggler_of(const StageRecord& record) {
  std::vector<std::pair<double, const RankShare*>> seconds;
  for (const RankShare& share : record.ranks)
    if (share.items > 0) seconds.emplace_back(share.busy_seconds / static_cast<double>(share.items), &share);
  if (seconds.size() < 2) return std::nullopt;
  std::sort(seconds.begin(), seconds.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first, a.second->rank) < std::pair(b.first, b.second->rank);
  });
  const double median = seconds[(seconds.size() - 1) / 2].first;  // the lower one: of two ranks, the other
  if (median <= 0) return std::nullopt;
  return Straggler{seconds.back().second, seconds.back().first / median};
}

std::string straggler_text(const StageRecord& record) {
  const auto found = straggler_of(record);
  if (!found) return "";
  return cat("; slowest rank ", found->share->rank, " on ", found->share->host,
             found->share->device.empty() ? "" : cat(" (", found->share->device, ")"), ": ", fixed(found->times, 2),
             " times the median's time for an item");
}

Path RunDirectory::shard(const std::string& stage, std::size_t index) const {
  char name[40];
  std::snprintf(name, sizeof name, "shard-%06zu.h5", index);
  return root_ / stage / name;
}

std::size_t sweep_run_folder(const RunDirectory& dir) {
  return sweep_parts(dir.root()) + sweep_parts(dir.root() / "stages") + sweep_parts(dir.root() / "progress");
}

void write_record(const RunDirectory& dir, const StageRecord& record) {
  DIVERGEN_CHECK(!record.stage.empty() && record.stage.find('/') == std::string::npos, record.stage);
  const Path file = dir.record(record.stage);
  make_folder(file.parent_path());
  write_file_atomic(file, to_json(record).dump(1) + "\n");
}

std::optional<StageRecord> read_record(const RunDirectory& dir, const std::string& stage) {
  const Path file = dir.record(stage);
  if (!std::filesystem::exists(file)) return std::nullopt;
  const std::string text = read_file(file);
  try {
    const json parsed = json::parse(text);
    if (parsed.at("schema") != kSchema)
      fail(ErrorKind::Data, {"a stage's record is of another version", file.string(),
                             cat("it says schema ", parsed.at("schema").dump(), ", this program writes ", kSchema),
                             "remove the file to run the stage again, or use the program that wrote it"});
    return from_json(parsed);
  } catch (const json::exception& problem) {
    fail(ErrorKind::Data, {"a stage's record is damaged", file.string(), problem.what(),
                           "remove the file: the stage then checks its results and writes it again"});
  }
}

std::vector<std::string> recorded_stages(const RunDirectory& dir) {
  std::vector<std::string> names;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(dir.root() / "stages", absent))
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    return std::pair(order_of(a), a) < std::pair(order_of(b), b);
  });
  return names;
}

std::vector<StageRecord> read_records(const RunDirectory& dir) {
  std::vector<StageRecord> records;
  for (const std::string& name : recorded_stages(dir))
    if (auto record = read_record(dir, name)) records.push_back(std::move(*record));
  return records;
}

}  // namespace divergen::stages
