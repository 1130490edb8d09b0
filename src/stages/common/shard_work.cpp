#include "stages/common/shard_work.hpp"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/fault.hpp"
#include "base/log.hpp"
#include "base/time_use.hpp"
#include "base/walltime.hpp"
#include "comm/progress.hpp"
#include "comm/work_queue.hpp"
#include "stages/common/shard_canary.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

/// A shard that fails so often ends the run: the first time, on a second rank, and two more after that rank was found
/// to be unfit itself.
constexpr std::size_t kMostTries = 4;

/// A shard that is still to be made after all were claimed, and who has tried it.
struct Open {
  std::set<int> tried;
  std::size_t tries = 0;
  std::string why;
  ErrorKind kind = ErrorKind::Bug;
};

/// What all ranks know after they have told each other.
struct Situation {
  std::map<std::size_t, Open> open;
  std::map<int, std::string> quarantined;
  bool ends_early = false;
};

/// Errors that no other rank would be spared: wrong settings, missing or damaged inputs, a full disk.
bool ends_the_run(ErrorKind kind) { return kind != ErrorKind::Bug && kind != ErrorKind::Io; }

class Maker {
 public:
  Maker(const RunContext& context, const ShardedStage& stage, ShardWork& work)
      : context_(context), stage_(stage), work_(work), canary_(context, stage) {
    work_.share.rank = context.world.rank();
    work_.share.host = context.world.host();
    work_.share.device = stage.device;
  }

  void run(const std::vector<std::size_t>& open) {
    const double begin = epoch_seconds();
    const TimeUseClock::Seconds before = time_use().seconds();
    for (const auto& [rank, why] : canary_.start(open.front())) {
      situation_.quarantined[rank] = why;
      if (rank == context_.world.rank()) quarantine(why);
    }
    std::int64_t total = 0, left = 0;
    for (std::size_t i = 0; i < stage_.shards; ++i) total += stage_.items(i);
    for (const std::size_t i : open) left += stage_.items(i);
    // What fails is settled after the last claim, when all ranks know of it: nothing comes back through the queue.
    comm::WorkQueue queue(context_.world, static_cast<std::int64_t>(open.size()), {.may_return = false});
    comm::ProgressOptions options;
    options.observer = context_.report_progress;
    if (const double walltime = job_clock().seconds_left(); walltime < WalltimeClock::kForever)
      options.walltime_left = std::max(1.0, walltime);
    comm::Progress progress(context_.world, stage_.name, total, total - left, std::move(options));
    progress_ = &progress;
    claim_all(queue, open);
    queue.finish();
    while (exchange()) try_what_is_assigned();
    progress.finish();
    progress_ = nullptr;
    work_.share.wait_seconds = std::max(0.0, epoch_seconds() - begin - work_.share.busy_seconds);
    take_phases(work_.phases, before);
    work_.phases.start = work_.share.start;
    work_.phases.end = work_.share.end;
    work_.phases.steady = work_.share.busy_seconds - work_.phases.load - work_.phases.commit - work_.phases.wait;
  }

 private:
  bool may_work() const { return work_.share.quarantined.empty() && !work_.stopped && !work_.error; }
  std::string who() const {
    return cat("rank ", work_.share.rank, " on ", work_.share.host,
               work_.share.device.empty() ? "" : cat(" (", work_.share.device, ")"));
  }

  // ---- one shard ---------------------------------------------------------------------------------------------

  std::optional<store::KeptRows> kept_rows(std::size_t index) const {
    const Path file = store::kept_rows_file(context_.dir.shard(stage_.name, index));
    if (!stage_.make_rows || !std::filesystem::exists(file)) return std::nullopt;
    try {
      store::KeptRows kept = store::read_kept_rows(file);
      auto& attributes = kept.rows.attributes;
      if (attributes["fingerprint"] == shard_fingerprint(stage_, index) && attributes["stage"] == stage_.name &&
          attributes["shard"] == std::to_string(index))
        return kept;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      log::warn(stage_.name, ": the kept rows of a shard are damaged, it is made again as a whole: ", error.text().why);
    }
    return std::nullopt;
  }

  /// A shard of which some rows are kept; nothing when it cannot be made the original again.
  std::optional<std::pair<store::Table, std::int64_t>> mend(std::size_t index, bool isolate) {
    const auto kept = kept_rows(index);
    if (!kept) return std::nullopt;
    try {
      store::Table table = store::merge_rows(stage_.make_rows(index, {&*kept, isolate}), *kept);
      if (table.table_hash() == kept->table_hash) {
        const auto made = static_cast<std::int64_t>(kept->total - kept->places.size());
        log::info(stage_.name, ": shard ", index, " is mended: ", made, " of ", kept->total, " rows are made again");
        return std::pair(std::move(table), made);
      }
      log::warn(stage_.name, ": shard ", index, " did not become what it was, and is made again as a whole");
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      log::warn(stage_.name, ": shard ", index, " cannot be mended, and is made again as a whole: ", error.what());
    }
    return std::nullopt;
  }

  /// The shard, and how many items were made for it.
  std::pair<store::Table, std::int64_t> make_table(std::size_t index, bool isolate) {
    fault::reach("shard.make");
    if (auto mended = mend(index, isolate)) return std::move(*mended);
    store::Table table = isolate ? stage_.make_rows(index, {nullptr, true}) : stage_.make(index);
    table.attributes["stage"] = stage_.name;
    table.attributes["shard"] = std::to_string(index);
    table.attributes["fingerprint"] = shard_fingerprint(stage_, index);
    return {std::move(table), stage_.items(index)};
  }

  void publish(std::size_t index, const store::Table& table, std::int64_t items, double start) {
    const Path file = context_.dir.shard(stage_.name, index);
    {
      const CommitTimer timer;
      const TimeUseTimer phase(TimeUse::Commit);
      store::write_table(table, file);
    }
    remove_quietly(store::kept_rows_file(file));
    work_.made[index].count(file, table.attributes);
    work_.share.items += items;
    work_.share.end = epoch_seconds();
    work_.share.busy_seconds += work_.share.end - start;
    work_.ends.emplace_back(work_.share.end, items);
    std::int64_t rejected = 0;
    for (const auto& [reason, count] : rejected_of(table.attributes)) rejected += count;
    progress_->add(stage_.items(index), rejected);
    in_a_row_ = 0;
    if (const auto problem = canary_.look(index, false)) quarantine(*problem);
  }

  void make_shard(std::size_t index, bool isolate) {
    const double start = epoch_seconds();
    if (work_.share.start == 0) work_.share.start = start;
    auto [table, items] = make_table(index, isolate);
    work_.item_seconds.add((epoch_seconds() - start) / static_cast<double>(std::max<std::int64_t>(items, 1)));
    if (isolate) {
      // A rank on which nothing at all succeeds has no say in which items are bad.
      const std::int64_t failed = rejected_for(table, kFailed);
      if (failed == stage_.items(index) && work_.made.empty())
        fail(ErrorKind::Bug, {"every item of a shard fails", cat(stage_.name, ", shard ", index), who(), ""});
      if (failed > 0)
        log::warn(stage_.name, ": ", failed, " of ", stage_.items(index), " items of shard ", index,
                  " fail on every rank that tries them, and are recorded as failed");
    }
    publish(index, table, items, start);
  }

  /// Notes what is on its way. `is_last_try`: an Error(Io) ends the run. `is_own`: the rank may be what is wrong.
  void note_failure(std::size_t index, bool is_last_try, bool is_own) {
    Open& failure = failed_[index];
    failure.kind = ErrorKind::Bug;
    try {
      throw;
    } catch (const Error& error) {
      failure.kind = error.kind();
      failure.why = error.what();
    } catch (const std::exception& error) {
      failure.why = error.what();
    }
    if (ends_the_run(failure.kind) || (is_last_try && failure.kind == ErrorKind::Io)) {
      failed_.erase(index);
      work_.error = std::current_exception();
      return;
    }
    log::warn(stage_.name, ": shard ", index, " failed on ", who(), ": ", failure.why);
    if (is_own && ++in_a_row_ >= context_.config.run.quarantine_after) {
      const std::string why = cat(in_a_row_, " shards failed one after another, the last of them: ", failure.why);
      canary_.look(index, true);  // when it still makes the right bits, what it has made is kept
      quarantine(why);
    }
  }

  /// This rank works no more; what it made since it was last seen to be right is taken away.
  void quarantine(const std::string& why) {
    work_.share.quarantined = why;
    log::error(stage_.name, ": ", who(), " is put in quarantine: ", why);
    for (const std::size_t index : canary_.doubtful()) {
      remove_quietly(context_.dir.shard(stage_.name, index));
      work_.made.erase(index);
      work_.share.items -= stage_.items(index);
      progress_->add(-stage_.items(index));
      given_back_.insert(index);
    }
  }

  // ---- all shards --------------------------------------------------------------------------------------------

  /// A rank that was asked to stop, or met an error that ends the run, closes the queue: the others finish the shard in
  /// work and find nothing more. One in quarantine just leaves.
  void claim_all(comm::WorkQueue& queue, const std::vector<std::size_t>& open) {
    while (may_work()) {
      const auto claim = queue.claim();
      if (!claim) break;
      for (std::int64_t i = 0; i < claim.count; ++i) {
        const std::size_t index = open[static_cast<std::size_t>(claim.first + i)];
        if (!may_work()) {
          given_back_.insert(index);
          continue;
        }
        if (context_.stop_requested()) {
          work_.stopped = true;
          break;
        }
        attempt(index, false, false);
      }
    }
    if (work_.stopped || work_.error) queue.close();
    end_of_round();
  }

  /// Makes a shard; false when it failed, which is noted.
  bool attempt(std::size_t index, bool isolate, bool is_last_try, bool is_own = true) {
    try {
      make_shard(index, isolate);
      return true;
    } catch (...) {
      note_failure(index, is_last_try, is_own);
      return false;
    }
  }

  void end_of_round() {
    if (!may_work()) return;
    if (const auto problem = canary_.look(0, true)) quarantine(*problem);
  }

  /// All ranks tell what is left. False when nothing is, or the run ends early. Collective.
  bool exchange() {
    json own{{"failed", json::array()},
             {"given", given_back_},
             {"quarantined", work_.share.quarantined},
             {"early", work_.stopped || work_.error != nullptr}};
    for (const auto& [index, failure] : failed_)
      own["failed"].push_back({index, failure.why, static_cast<int>(failure.kind)});
    std::string all = json(context_.world.gather_texts(own.dump())).dump();
    all = context_.world.broadcast_text(std::move(all));
    std::set<std::size_t> left;
    int rank = 0;
    for (const json& text : json::parse(all)) {
      const json told = json::parse(text.get<std::string>());
      situation_.ends_early = situation_.ends_early || told.at("early").get<bool>();
      if (const std::string why = told.at("quarantined"); !why.empty()) situation_.quarantined[rank] = why;
      for (const json& index : told.at("given")) left.insert(index.get<std::size_t>());
      for (const json& failure : told.at("failed")) {
        const auto index = failure.at(0).get<std::size_t>();
        left.insert(index);
        Open& one = situation_.open[index];
        one.tried.insert(rank);
        ++one.tries;
        one.why = failure.at(1);
        one.kind = static_cast<ErrorKind>(failure.at(2).get<int>());
      }
      ++rank;
    }
    failed_.clear();
    given_back_.clear();
    for (const std::size_t index : left) situation_.open[index];
    std::erase_if(situation_.open, [&](const auto& one) { return !left.contains(one.first); });
    if (situation_.ends_early) return false;
    check_that_it_can_go_on();
    return !situation_.open.empty();
  }

  void check_that_it_can_go_on() const {
    const auto ranks = static_cast<std::size_t>(context_.world.size());
    if (situation_.quarantined.size() == ranks) {
      // The first rank's reason; its shards' own error decides the exit code, so that a lost disk stays a lost disk.
      ErrorKind kind = ErrorKind::Bug;
      std::string why = situation_.quarantined.begin()->second;
      for (const auto& [index, one] : situation_.open)
        if (one.tries > 0) kind = one.kind, why = one.why;
      fail(kind,
           {cat("all ranks of '", stage_.name, "' are in quarantine"), cat(ranks, " ranks"), why,
            "see the log for each rank's reason; what was committed stays: mend it, and run the same again. If the "
            "program or the machines have changed since the run was begun, remove its canary.json"});
    }
    for (const auto& [index, one] : situation_.open)
      if (one.tries >= kMostTries)
        fail(one.kind, {"a shard cannot be made on any rank", cat(stage_.name, ", shard ", index), one.why,
                        "see the log; what was committed stays: mend it, and run the same again"});
  }

  /// Which of the open shards this rank is to try: each goes to a rank that has not tried it, as long as there is one.
  std::vector<std::size_t> assigned() const {
    std::vector<std::size_t> own;
    std::size_t turn = 0;
    for (const auto& [index, one] : situation_.open) {
      std::vector<int> fit, fresh;
      for (int rank = 0; rank < context_.world.size(); ++rank) {
        if (situation_.quarantined.contains(rank)) continue;
        fit.push_back(rank);
        if (!one.tried.contains(rank)) fresh.push_back(rank);
      }
      const auto& ranks = fresh.empty() ? fit : fresh;
      if (ranks[turn++ % ranks.size()] == context_.world.rank()) own.push_back(index);
    }
    return own;
  }

  /// A shard that failed on another rank fails here too: its items are looked at one by one.
  void try_what_is_assigned() {
    for (const std::size_t index : assigned()) {
      if (!may_work()) {
        given_back_.insert(index);
        continue;
      }
      if (context_.stop_requested()) {
        work_.stopped = true;
        break;
      }
      const bool failed_before = situation_.open.at(index).tries > 0;
      const bool can_isolate = failed_before && stage_.make_rows != nullptr;
      if (attempt(index, false, failed_before, !can_isolate) || !can_isolate || !may_work()) continue;
      failed_.erase(index);
      attempt(index, true, true);
    }
    end_of_round();
  }

  const RunContext& context_;
  const ShardedStage& stage_;
  ShardWork& work_;
  CanaryWatch canary_;
  comm::Progress* progress_ = nullptr;
  std::int64_t in_a_row_ = 0;
  std::map<std::size_t, Open> failed_;  // by this rank, since the ranks last told each other
  std::set<std::size_t> given_back_;
  Situation situation_;
};

}  // namespace

void ShardTally::count(const Path& file, const std::map<std::string, std::string>& attributes) {
  for (const auto& [reason, count] : rejected_of(attributes)) rejected[reason] += count;
  std::error_code ignored;
  const auto size = std::filesystem::file_size(file, ignored);
  if (!ignored) bytes += static_cast<std::int64_t>(size);
}

ShardTally ShardWork::sum() const {
  ShardTally all;
  for (const auto& [index, one] : made) {
    for (const auto& [reason, count] : one.rejected) all.rejected[reason] += count;
    all.bytes += one.bytes;
  }
  return all;
}

std::string shard_fingerprint(const ShardedStage& stage, std::size_t shard) {
  return stage.parts.empty() ? stage.fingerprint : stage.parts.at(stage.part_of(shard));
}

ShardWork make_shards(const RunContext& context, const ShardedStage& stage, const std::vector<std::size_t>& open) {
  ShardWork work;
  Maker maker(context, stage, work);
  if (!open.empty()) maker.run(open);
  return work;
}

}  // namespace divergen::stages
