#pragma once
// The frame that the sharded stages (generate, annotate, filter, pool, and fused for all of them) share: which shards
// are still to be made, who makes them, how they are published, what happens on a stop or an error, and the stage's
// record.
//
// A shard is one table file, "<stage>/shard-000012.h5" (RunDirectory::shard). Its contents must be a pure function of
// its index and the shard's fingerprint, never of the rank that makes it or of the order.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "stages/common/context.hpp"
#include "stages/common/shard_request.hpp"
#include "store/table.hpp"

namespace divergen::stages {

/// Bits that a rank makes of a fixed item, and of what kind of device they may be expected.
struct Canary {
  std::string key;   // ranks with the same key must have the same hash: model and kind of device
  std::string hash;  // "" when the rank could not even make it
};

struct ShardedStage {
  std::string name;         // "generate": also the folder of the shards and the name of the record
  std::size_t shards = 0;   // indices 0 .. shards-1
  std::string fingerprint;  // hash of all that the result depends on: settings, weights, the stages before

  /// The shard of this index. Called on the rank that claimed it, from its main thread; not collective. The frame adds
  /// the attributes "stage", "shard" and "fingerprint". What was rejected in it is told by set_rejected().
  std::function<store::Table(std::size_t shard)> make;

  /// How many items the shard handles (rows of the plan, not of what is kept); for the record and the progress line.
  /// Cheap, and the same on all ranks.
  std::function<std::int64_t(std::size_t shard)> items;

  /// Optional: the shard with some rows left out or isolated (ShardRequest); the others as `make` makes them. Without
  /// it a damaged shard is made again as a whole, and an item that fails everywhere ends the run.
  std::function<store::Table(std::size_t shard, const ShardRequest& request)> make_rows;

  /// Optional: fingerprints of the parts of a plan that grew (Plan::rounds), the last one being `fingerprint`: shards
  /// of a part whose own fingerprint stands are kept although others were added. Set by set_rounds().
  std::vector<std::string> parts;
  std::function<std::size_t(std::size_t shard)> part_of;

  /// Optional: a small fixed piece of the work that `shard` would be (its model, one item of the plan). A rank whose
  /// bits differ from those of its like, or change while it works, is put in quarantine: RunSettings::canary_minutes.
  std::function<Canary(std::size_t shard)> canary;
  std::string device;  // of this rank, for messages and the record: "cuda:1 NVIDIA H100"

  /// Other files that must be there for the stage to be complete; `complete` makes them.
  std::vector<Path> products;

  /// Optional: called once on every rank, together, before the first shard is made; never when no shard is left.
  /// The place for loading models. What can fail on one rank alone goes into World::together.
  std::function<void()> prepare;

  /// Optional: called once on every rank, together, when all shards stand and before the record is written: an index
  /// over the shards, totals. It may add to `record` on rank 0 (the record of the other ranks is thrown away).
  std::function<void(StageRecord& record)> complete;
};

/// Collective. Makes the shards that are not there yet and writes the record:
///   * returns at once when a record with the same fingerprint stands and no shard file is missing;
///   * shards of earlier starts are kept if they are whole and carry the same fingerprint; others are removed with a
///     warning and made again (the ranks share out this check). Of shards that `divergen repair` took away it made rows
///     wait that verified: only the others are made (make_rows), and the whole proves by its hash to be the original;
///   * the open ones are claimed one by one through comm::WorkQueue;
///   * a shard that fails on a rank (anything but the errors below) is tried by another one; if it fails there too, its
///     items are made one by one and those that fail are recorded under kFailed (make_rows). A rank on which
///     run.quarantine_after shards fail one after another, or whose canary differs, claims no more, and what it made
///     since it was last seen to be right is made by others; the log and the record name rank, node and device.
///     When nobody is left the stage ends with the first cause (exit code 70 if it was no Error);
///   * when RunContext::stop_requested() says so on some rank, or `make` throws Error(Usage | Config | Data | NoSpace)
///     there, all ranks finish the shard in work, claim no more, and throw: Error(Stopped), or the error on the rank
///     that had it and one of its kind elsewhere.
/// Throws besides: Error(Io | NoSpace | Data).
void run_sharded(const RunContext& context, const ShardedStage& stage);

/// Name under which items are counted that could not be made at all.
inline constexpr const char* kFailed = "failed";

/// Numbers of rejected items by reason, kept in the shard itself (attribute "rejected", JSON), so that the record adds
/// up over restarts. Reasons with 0 are left out.
void set_rejected(store::Table& table, const std::map<std::string, std::int64_t>& rejected);
/// Empty when the attribute is absent. Throws Error(Data) when it is not what set_rejected() wrote.
std::map<std::string, std::int64_t> rejected_of(const std::map<std::string, std::string>& attributes);
/// Of a shard's table, for one reason; 0 when it does not name it.
std::int64_t rejected_for(const store::Table& table, const std::string& reason);

/// Reads shard `index` of an earlier stage and checks it. Throws Error(Data) when it is missing, damaged, or not of
/// this format.
store::Table read_shard(const RunDirectory& dir, const std::string& stage, std::size_t index,
                        const std::string& format);

/// The fingerprint in the record of an earlier stage, which is part of the fingerprints of those that read it.
/// Throws Error(Data) when that stage has not been completed.
std::string fingerprint_of(const RunDirectory& dir, const std::string& stage);
/// Those of its parts; just one of a plan that did not grow. Throws Error(Data) when it is not complete, or not for so
/// many parts.
std::vector<std::string> fingerprints_of(const RunDirectory& dir, const std::string& stage, std::size_t parts);

}  // namespace divergen::stages
