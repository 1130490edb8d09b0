#include "stages/common/sharded.hpp"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/log.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/walltime.hpp"
#include "comm/claims.hpp"
#include "comm/progress.hpp"
#include "comm/work_queue.hpp"
#include "stages/common/rank_phases.hpp"
#include "stages/common/starts.hpp"

namespace divergen::stages {
namespace {

using Counts = std::map<std::string, std::int64_t>;
using nlohmann::json;

void add(Counts& to, const Counts& counts) {
  for (const auto& [reason, count] : counts) to[reason] += count;
}

/// What a rank knows of the shards that it checked or made.
struct Tally {
  Counts rejected;
  std::int64_t bytes = 0;

  void count(const Path& file, const std::map<std::string, std::string>& attributes) {
    add(rejected, rejected_of(attributes));
    std::error_code ignored;
    const auto size = std::filesystem::file_size(file, ignored);
    if (!ignored) bytes += static_cast<std::int64_t>(size);
  }
};

/// Which of the stage's shard files exist, from one listing of the folder (no rank but the first asks the file system
/// about thousands of names). Left-over parts of killed runs are swept first.
std::string list_shards(const RunContext& context, const ShardedStage& stage) {
  const Path folder = context.dir.shard(stage.name, 0).parent_path();
  make_folder(folder);
  sweep_parts(folder);
  std::map<std::string, std::size_t> index_of;
  for (std::size_t i = 0; i < stage.shards; ++i) index_of[context.dir.shard(stage.name, i).filename().string()] = i;
  std::string present(stage.shards, '0');
  std::vector<Path> surplus;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const auto found = index_of.find(name);
    if (found != index_of.end()) {
      present[found->second] = '1';
    } else if (name.starts_with("shard-")) {
      surplus.push_back(entry.path());
    }
  }
  for (const Path& file : surplus) std::filesystem::remove(file);
  if (!surplus.empty())
    log::warn(stage.name, ": ", surplus.size(), " shards that are not part of this plan are removed from ",
              folder.string());
  return present;
}

enum class State { Whole, Outdated, Damaged };

/// What a shard of an earlier start is worth. Whole ones are counted, damaged ones are warned of.
State examine(const Path& file, const ShardedStage& stage, Tally& tally) {
  std::string why;
  try {
    const store::TableHead head = store::read_table_head(file);  // cheap, and settles most cases of changed settings
    const auto fingerprint = head.attributes.find("fingerprint");
    if (fingerprint == head.attributes.end() || fingerprint->second != stage.fingerprint) return State::Outdated;
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
                                     Tally& tally) {
  comm::World& world = context.world;
  std::vector<std::int64_t> is_whole(stage.shards + 1, 0);  // and how many are outdated
  world.together([&] {
    for (auto i = static_cast<std::size_t>(world.rank()); i < stage.shards;
         i += static_cast<std::size_t>(world.size())) {
      if (present[i] != '1') continue;
      const Path file = context.dir.shard(stage.name, i);
      const State state = examine(file, stage, tally);
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

/// What one rank did, and how it ended.
struct Work {
  RankShare share;
  LogHistogram item_seconds;
  RankPhases phases;
  std::vector<std::pair<double, std::int64_t>> ends;  // when so many items were committed
  Tally tally;
  bool stopped = false;
  std::exception_ptr error;
};

/// Returns how many items were rejected in it.
std::int64_t make_shard(const RunContext& context, const ShardedStage& stage, std::size_t index, Work& work) {
  const double start = epoch_seconds();
  if (work.share.start == 0) work.share.start = start;
  store::Table table = stage.make(index);
  const double made = epoch_seconds() - start;
  table.attributes["stage"] = stage.name;
  table.attributes["shard"] = std::to_string(index);
  table.attributes["fingerprint"] = stage.fingerprint;
  const Path file = context.dir.shard(stage.name, index);
  {
    const CommitTimer timer;
    const TimeUseTimer phase(TimeUse::Commit);
    store::write_table(table, file);
  }
  work.tally.count(file, table.attributes);
  work.share.items += stage.items(index);
  work.share.end = epoch_seconds();
  work.share.busy_seconds += work.share.end - start;
  work.ends.emplace_back(work.share.end, stage.items(index));
  work.item_seconds.add(made / static_cast<double>(std::max<std::int64_t>(stage.items(index), 1)));
  std::int64_t rejected = 0;
  for (const auto& [reason, count] : rejected_of(table.attributes)) rejected += count;
  return rejected;
}

/// Claims and makes shards until none is left. A rank that was asked to stop, or failed, closes the queue: the others
/// finish the shard in work and find nothing more. Collective; what went wrong is told by the result.
Work make_shards(const RunContext& context, const ShardedStage& stage, const std::vector<std::size_t>& open) {
  Work work;
  work.share.rank = context.world.rank();
  work.share.host = context.world.host();
  const TimeUseClock::Seconds before = time_use().seconds();
  if (open.empty()) return work;
  std::int64_t total = 0, left = 0;
  for (std::size_t i = 0; i < stage.shards; ++i) total += stage.items(i);
  for (const std::size_t i : open) left += stage.items(i);
  comm::WorkQueue queue(context.world, static_cast<std::int64_t>(open.size()));
  comm::ProgressOptions options;
  options.observer = context.report_progress;
  if (const double walltime = job_clock().seconds_left(); walltime < WalltimeClock::kForever)
    options.walltime_left = std::max(1.0, walltime);
  comm::Progress progress(context.world, stage.name, total, total - left, std::move(options));
  while (const auto claim = queue.claim()) {
    if (context.stop_requested()) {
      work.stopped = true;
      queue.close();
      break;
    }
    try {
      const std::size_t index = open[static_cast<std::size_t>(claim.first)];
      const std::int64_t rejected = make_shard(context, stage, index, work);
      progress.add(stage.items(index), rejected);
    } catch (...) {
      work.error = std::current_exception();
      queue.close();
      break;
    }
  }
  queue.finish();
  progress.finish();
  take_phases(work.phases, before);
  work.phases.start = work.share.start;
  work.phases.end = work.share.end;
  work.phases.steady = work.share.busy_seconds - work.phases.load - work.phases.commit - work.phases.wait;
  return work;
}

// ---- the record ----------------------------------------------------------------------------------------------------

json to_json(const Work& work, const Tally& checked) {
  Tally sum = checked;
  add(sum.rejected, work.tally.rejected);
  sum.bytes += work.tally.bytes;
  return {{"rank", work.share.rank},
          {"host", work.share.host},
          {"items", work.share.items},
          {"busy", work.share.busy_seconds},
          {"start", work.share.start},
          {"end", work.share.end},
          {"phases", to_text(work.phases)},
          {"ends", work.ends},
          {"rejected", sum.rejected},
          {"bytes", sum.bytes},
          {"item_seconds", work.item_seconds.bins()},
          {"item_seconds_sum", work.item_seconds.sum()}};
}

/// In which the last 5 % of the items were committed (reference/reliability.md §7).
double tail_seconds(decltype(Work::ends) ends) {
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
  for (std::size_t i = 0; i < stage.shards; ++i) record.items += stage.items(i);
  double bytes = 0;
  std::vector<RankPhases> phases;
  decltype(Work::ends) ends;
  for (const std::string& text : ranks) {
    const json entry = json::parse(text);
    RankShare share;
    share.rank = entry.at("rank");
    share.host = entry.at("host");
    share.items = entry.at("items");
    share.busy_seconds = entry.at("busy");
    share.start = entry.at("start");
    share.end = entry.at("end");
    record.ranks.push_back(share);
    phases.push_back(rank_phases_of(entry.at("phases").get<std::string>()));
    const auto own = entry.at("ends").get<decltype(Work::ends)>();
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
void end_early(const RunContext& context, const ShardedStage& stage, const Work& work) {
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

  Tally checked;
  std::vector<std::size_t> open = open_shards(context, stage, present, checked);
  shuffle_claims(stage, open);
  if (world.is_root() && !open.empty())
    log::info(stage.name, ": ", open.size(), " of ", stage.shards, " shards to make on ", world.size(), " ranks");
  if (!open.empty() && stage.prepare) stage.prepare();
  const Work work = make_shards(context, stage, open);

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
    if (world.is_root()) write_record(context.dir, record);
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

}  // namespace divergen::stages
