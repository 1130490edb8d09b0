#include "stages/common/sharded.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "comm/claims.hpp"
#include "stages/common/rank_phases.hpp"
#include "stages/common/shard_work.hpp"
#include "stages/common/starts.hpp"
#include "store/salvage.hpp"

namespace divergen::stages {
namespace {

using Counts = std::map<std::string, std::int64_t>;
using nlohmann::json;

void add(Counts& to, const Counts& counts) {
  for (const auto& [reason, count] : counts) to[reason] += count;
}

/// Which of the stage's shard files exist, from one listing of the folder (no rank but the first asks the file system
/// about thousands of names). Left-over parts of killed runs are swept first.
std::string list_shards(const RunContext& context, const ShardedStage& stage) {
  const Path folder = context.dir.shard(stage.name, 0).parent_path();
  make_folder(folder);
  sweep_parts(folder);
  std::map<std::string, std::size_t> index_of;
  for (std::size_t i = 0; i < stage.shards; ++i) index_of[context.dir.shard(stage.name, i).filename().string()] = i;
  std::string present(stage.shards, '0');
  std::vector<Path> surplus, kept;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const auto found = index_of.find(name);
    if (found != index_of.end()) {
      present[found->second] = '1';
    } else if (name.starts_with("shard-")) {
      surplus.push_back(entry.path());
    } else if (name.starts_with("kept-")) {
      kept.push_back(entry.path());
    }
  }
  for (const Path& file : kept) {  // of a shard that was mended just before a kill
    const auto found = index_of.find("shard-" + file.filename().string().substr(5));
    if (found == index_of.end() || present[found->second] == '1') remove_quietly(file);
  }
  for (const Path& file : surplus) std::filesystem::remove(file);
  if (!surplus.empty())
    log::warn(stage.name, ": ", surplus.size(), " shards that are not part of this plan are removed from ",
              folder.string());
  return present;
}

enum class State { Whole, Outdated, Damaged };

/// What a shard of an earlier start is worth. Whole ones are counted, damaged ones are warned of.
State examine(const Path& file, const ShardedStage& stage, std::size_t index, ShardTally& tally) {
  std::string why;
  try {
    const store::TableHead head = store::read_table_head(file);  // cheap, and settles most cases of changed settings
    const auto fingerprint = head.attributes.find("fingerprint");
    if (fingerprint == head.attributes.end() || fingerprint->second != shard_fingerprint(stage, index))
      return State::Outdated;
    const auto problem = store::verify_table(file);
    if (!problem) {
      tally.count(file, head.attributes);
      return State::Whole;
    }
    why = *problem;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data) throw;
    why = cat(error.text().object, ": ", error.text().why);
  }
  log::warn(stage.name, ": a damaged shard is made again: ", why);
  return State::Damaged;
}

/// Indices of the shards that are still to be made, the same on all ranks. Each rank checks every size-th file.
std::vector<std::size_t> open_shards(const RunContext& context, const ShardedStage& stage, const std::string& present,
                                     ShardTally& tally) {
  comm::World& world = context.world;
  std::vector<std::int64_t> is_whole(stage.shards + 1, 0);  // and how many are outdated
  world.together([&] {
    for (auto i = static_cast<std::size_t>(world.rank()); i < stage.shards;
         i += static_cast<std::size_t>(world.size())) {
      if (present[i] != '1') continue;
      const Path file = context.dir.shard(stage.name, i);
      const State state = examine(file, stage, i, tally);
      is_whole[i] = state == State::Whole;
      is_whole[stage.shards] += state == State::Outdated;
      if (state != State::Whole) std::filesystem::remove(file);
    }
  });
  world.sum(std::span<std::int64_t>(is_whole));
  if (world.is_root() && is_whole[stage.shards] > 0)
    log::warn(stage.name, ": ", is_whole[stage.shards],
              " shards were made with other settings, weights or earlier results, and are made again");
  comm::ResumeMap map(stage.shards);
  for (std::size_t i = 0; i < stage.shards; ++i)
    if (is_whole[i] != 0) map.set_done(i);
  return map.open();
}

// ---- the record ----------------------------------------------------------------------------------------------------

json to_json(const ShardWork& work, const ShardTally& checked) {
  ShardTally sum = work.sum();
  add(sum.rejected, checked.rejected);
  sum.bytes += checked.bytes;
  const RankShare& share = work.share;
  return {{"rank", share.rank},
          {"host", share.host},
          {"items", share.items},
          {"busy", share.busy_seconds},
          {"start", share.start},
          {"end", share.end},
          {"phases", to_text(work.phases)},
          {"ends", work.ends},
          {"wait", share.wait_seconds},
          {"device", share.device},
          {"quarantined", share.quarantined},
          {"rejected", sum.rejected},
          {"bytes", sum.bytes},
          {"item_seconds", work.item_seconds.bins()},
          {"item_seconds_sum", work.item_seconds.sum()}};
}

/// In which the last 5 % of the items were committed (reference/reliability.md §7).
double tail_seconds(decltype(ShardWork::ends) ends) {
  std::sort(ends.begin(), ends.end());
  std::int64_t all = 0, before = 0;
  for (const auto& [end, items] : ends) all += items;
  for (const auto& [end, items] : ends)
    if ((before += items) * 20 >= all * 19) return ends.back().first - end;
  return 0;
}

StageRecord record_of(const ShardedStage& stage, const std::vector<std::string>& ranks, double seconds) {
  StageRecord record;
  record.stage = stage.name;
  record.fingerprint = stage.fingerprint;
  record.seconds = seconds;
  if (stage.parts.size() > 1) record.parts = stage.parts;
  for (std::size_t i = 0; i < stage.shards; ++i) record.items += stage.items(i);
  double bytes = 0;
  std::vector<RankPhases> phases;
  decltype(ShardWork::ends) ends;
  for (const std::string& text : ranks) {
    const json entry = json::parse(text);
    RankShare share;
    share.rank = entry.at("rank");
    share.host = entry.at("host");
    share.items = entry.at("items");
    share.busy_seconds = entry.at("busy");
    share.start = entry.at("start");
    share.end = entry.at("end");
    share.wait_seconds = entry.at("wait");
    share.device = entry.at("device");
    share.quarantined = entry.at("quarantined");
    record.ranks.push_back(share);
    phases.push_back(rank_phases_of(entry.at("phases").get<std::string>()));
    const auto own = entry.at("ends").get<decltype(ShardWork::ends)>();
    ends.insert(ends.end(), own.begin(), own.end());
    record.item_seconds.merge(LogHistogram::from_bins(
        entry.at("item_seconds").get<std::vector<std::pair<int, std::int64_t>>>(), entry.at("item_seconds_sum")));
    add(record.rejected, entry.at("rejected").get<Counts>());
    bytes += entry.at("bytes").get<double>();
  }
  add_phases(record.figures, phases);
  if (!ends.empty()) record.figures["tail_seconds"] = tail_seconds(std::move(ends));
  record.figures["bytes"] = bytes;
  record.figures["shards"] = static_cast<double>(stage.shards);
  return record;
}

/// One line for those who look for slow or broken nodes.
void log_ranks(const StageRecord& record) {
  double busy = 0, wait = 0;
  for (const RankShare& share : record.ranks) busy += share.busy_seconds, wait += share.wait_seconds;
  if (record.ranks.size() > 1 && busy > 0)
    log::info(record.stage, ": ", record.ranks.size(), " ranks were at work ", fixed(100 * busy / (busy + wait), 1),
              " % of the time", straggler_text(record));
  for (const RankShare& share : record.ranks)
    if (!share.quarantined.empty())
      log::warn(record.stage, ": rank ", share.rank, " on ", share.host,
                share.device.empty() ? "" : cat(" (", share.device, ")"), " was in quarantine: ", share.quarantined);
}

/// True on all ranks when there is nothing to do. `present` is filled on all ranks.
bool is_complete(const RunContext& context, const ShardedStage& stage, std::string& present) {
  bool complete = false;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    present = list_shards(context, stage);
    std::optional<StageRecord> record;
    try {
      record = read_record(context.dir, stage.name);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      log::warn(stage.name, ": its record is damaged and is made again: ", error.text().why);
    }
    complete = record && record->fingerprint == stage.fingerprint && present.find('0') == std::string::npos &&
               std::all_of(stage.products.begin(), stage.products.end(),
                           [](const Path& product) { return std::filesystem::exists(product); });
    if (complete) log::info(stage.name, ": complete already");
  });
  present = context.world.broadcast_text(std::move(present));
  return context.world.any(complete);
}

/// All ranks leave together: with the error where it happened, or with Stopped.
void end_early(const RunContext& context, const ShardedStage& stage, const ShardWork& work) {
  context.world.together([&] {
    if (work.error) std::rethrow_exception(work.error);
  });
  if (context.world.any(work.stopped))
    fail(ErrorKind::Stopped, {"stopped early, as asked", stage.name, "the shards that are made are kept",
                              "run the same command again: it continues"});
}

/// With DIVERGEN_CLAIM_SHUFFLE=<number>, ranks claim the shards in another order, the same on all of them: tests show
/// that no result depends on it.
void shuffle_claims(const ShardedStage& stage, std::vector<std::size_t>& open) {
  const char* number = std::getenv("DIVERGEN_CLAIM_SHUFFLE");
  if (number != nullptr && *number != '\0')
    Rng(derive_seed(std::strtoull(number, nullptr, 10), stage.name)).shuffle(open);
}

}  // namespace

void run_sharded(const RunContext& context, const ShardedStage& stage) {
  DIVERGEN_CHECK(stage.make && stage.items && !stage.name.empty() && !stage.fingerprint.empty());
  const double start = epoch_seconds();
  comm::World& world = context.world;
  std::string present;
  if (is_complete(context, stage, present)) return;
  if (world.is_root()) remove_quietly(context.dir.record(stage.name));  // it does not hold for what is made now

  ShardTally checked;
  std::vector<std::size_t> open = open_shards(context, stage, present, checked);
  shuffle_claims(stage, open);
  if (world.is_root() && !open.empty())
    log::info(stage.name, ": ", open.size(), " of ", stage.shards, " shards to make on ", world.size(), " ranks");
  if (!open.empty() && stage.prepare) stage.prepare();
  const ShardWork work = make_shards(context, stage, open);

  const StartsJournal journal(context.dir.record(stage.name).parent_path() / (stage.name + ".starts"),
                              stage.fingerprint);
  world.together([&] {
    if (world.is_root()) journal.append(epoch_seconds() - start);
  });
  end_early(context, stage, work);

  const std::vector<std::string> ranks = world.gather_texts(to_json(work, checked).dump());
  StageRecord record;
  if (world.is_root()) record = record_of(stage, ranks, journal.seconds());
  if (stage.complete) stage.complete(record);
  world.together([&] {
    if (!world.is_root()) return;
    if (!open.empty()) log_ranks(record);
    write_record(context.dir, record);
  });
}

void set_rejected(store::Table& table, const std::map<std::string, std::int64_t>& rejected) {
  json counts = json::object();
  for (const auto& [reason, count] : rejected)
    if (count != 0) counts[reason] = count;
  table.attributes["rejected"] = counts.dump();
}

std::map<std::string, std::int64_t> rejected_of(const std::map<std::string, std::string>& attributes) {
  const auto found = attributes.find("rejected");
  if (found == attributes.end()) return {};
  try {
    return json::parse(found->second).get<Counts>();
  } catch (const json::exception& error) {
    fail(ErrorKind::Data, {"a shard's numbers of rejected items cannot be read", "attribute 'rejected'", error.what(),
                           "run `divergen repair` on its run"});
  }
}

std::int64_t rejected_for(const store::Table& table, const std::string& reason) {
  const auto rejected = rejected_of(table.attributes);
  const auto found = rejected.find(reason);
  return found == rejected.end() ? 0 : found->second;
}

store::Table read_shard(const RunDirectory& dir, const std::string& stage, std::size_t index,
                        const std::string& format) {
  const TimeUseTimer timer(TimeUse::Input);
  const Path file = dir.shard(stage, index);
  if (!std::filesystem::exists(file))
    fail(ErrorKind::Data, {"a shard of an earlier stage is missing", file.string(), "",
                           cat("run `divergen ", stage, "` again: it makes what is missing")});
  store::Table table = store::read_table(file);
  if (table.format() != format)
    fail(ErrorKind::Data, {"a shard holds something else than its folder says", file.string(),
                           cat("it is '", table.format(), "', not '", format, "'"),
                           cat("remove it, then run `divergen ", stage, "` again")});
  return table;
}

std::string fingerprint_of(const RunDirectory& dir, const std::string& stage) {
  const std::optional<StageRecord> record = read_record(dir, stage);
  if (!record)
    fail(ErrorKind::Data, {cat("the stage '", stage, "' is not complete"), dir.record(stage).string(),
                           "its record does not exist", cat("run `divergen ", stage, "` first")});
  return record->fingerprint;
}

std::vector<std::string> fingerprints_of(const RunDirectory& dir, const std::string& stage, std::size_t parts) {
  const std::string whole = fingerprint_of(dir, stage);
  std::vector<std::string> out = read_record(dir, stage)->parts;
  if (out.empty()) out = {whole};
  if (out.size() != parts)
    fail(ErrorKind::Data, {cat("the stage '", stage, "' is not complete"), dir.record(stage).string(),
                           "the plan has grown since it was run", cat("run `divergen ", stage, "` first")});
  return out;
}

}  // namespace divergen::stages
