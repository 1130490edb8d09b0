#include "stages/filter/filter.hpp"

#include <ATen/Parallel.h>

#include <nlohmann/json.hpp>

#include "base/hash.hpp"
#include "base/log.hpp"
#include "models/generator.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/common/sharded.hpp"
#include "stages/filter/scores.hpp"
#include "stages/filter/verdict.hpp"
#include "stages/generate/generate.hpp"
#include "store/table_file.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kStage = "filter";
constexpr const char* kScoresStage = "filter.scores";
constexpr const char* kFused = "fused";

/// A shard's columns of scores, without the cut-outs that stand beside them in a fused one.
store::Table read_scores(const RunDirectory& dir, const std::string& stage, std::size_t shard) {
  if (stage == kScoresStage) return read_shard(dir, stage, shard, kScoresFormat);
  return store::TableFile(dir.shard(stage, shard)).columns();
}

/// Best score of every category over all shards, on all ranks. Collective: each rank reads every size-th shard.
std::map<std::int32_t, float> best_scores(const RunContext& context, std::size_t shards, const std::string& stage) {
  comm::World& world = context.world;
  std::map<std::int32_t, float> best;
  world.together([&] {
    for (auto s = static_cast<std::size_t>(world.rank()); s < shards; s += static_cast<std::size_t>(world.size()))
      add_best_scores(read_scores(context.dir, stage, s), best);
  });
  const auto to_text = [&] { return nlohmann::json(std::vector(best.begin(), best.end())).dump(); };
  for (const std::string& text : world.gather_texts(to_text()))
    for (const auto& [id, score] : nlohmann::json::parse(text).get<std::vector<std::pair<std::int32_t, float>>>()) {
      const auto [entry, is_new] = best.emplace(id, score);
      if (!is_new) entry->second = std::max(entry->second, score);
    }
  const auto all = nlohmann::json::parse(world.broadcast_text(to_text()));
  best.clear();
  for (const auto& [id, score] : all.get<std::vector<std::pair<std::int32_t, float>>>()) best[id] = score;
  return best;
}

/// The record of the verdicts speaks for the whole stage.
void complete_record(const RunContext& context, const std::string& scores, StageRecord& record) {
  if (!context.world.is_root()) return;
  std::int64_t rejected = 0;
  for (const auto& [reason, count] : record.rejected) rejected += count;
  record.figures["kept"] = static_cast<double>(record.items - rejected);
  std::vector<std::string> passes{"filter.reference"};
  if (scores == kScoresStage) passes.push_back(scores);  // those of a fused run count for generating, too
  for (const std::string& pass : passes)
    if (const auto earlier = read_record(context.dir, pass)) {
      record.seconds += earlier->seconds;
      record.figures[cat(pass, "_seconds")] = earlier->seconds;
    }
  log::info("filter: ", record.items - rejected, " of ", record.items, " items are kept");
}

}  // namespace

Scoring::Scoring(const RunContext& context, const Plan& plan) {
  const auto& settings = context.config.filter;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    check_clip_folder(settings.clip);
    clip_hash_ = models::hash_weights(settings.clip);
  });
  clip_hash_ = context.world.broadcast_text(std::move(clip_hash_));
  // Passes are padded to a whole batch, so one that no shard can fill would only cost.
  const std::int64_t batch = std::min<std::int64_t>(settings.batch, plan.shard_items);
  scorer_ = [this, folder = settings.clip, batch]() -> ClipScorer& {
    if (!clip_) clip_ = std::make_unique<ClipScorer>(folder, batch);
    return *clip_;
  };
  reference_ = make_reference(context, plan, clip_hash_, scorer_);
  fingerprint_ = cat(clip_hash_, '\n', reference_.fingerprint, '\n', settings.batch);
  for (const PlanCategory& category : plan.categories) names_[category.id] = category.name;
}

store::Table Scoring::make(const store::Table& pictures, const store::Table& masks, const ShardRequest& request) {
  store::Table scores = make_scores(pictures, masks, reference_, names_, scorer_(), request);
  scores.attributes["weights_hash"] = clip_hash_;  // the pool's provenance
  return scores;
}

namespace {

/// `scores`: the stage (a pass) whose shards hold the scores.
void make_all_verdicts(const RunContext& context, const Plan& plan, const std::string& scores,
                       const std::string& fingerprint) {
  const auto& settings = context.config.filter;
  std::map<std::int32_t, float> best;
  ShardedStage stage;
  stage.name = kStage;
  stage.shards = plan.shards();
  stage.fingerprint = to_hex(hash128(cat(kVerdictsFormat, kVerdictsVersion, '\n', fingerprint, '\n',
                                         settings.similarity, '\n', settings.tolerance, '\n', settings.min_clip_score,
                                         '\n', settings.min_area, '\n', settings.max_area)));
  stage.items = [&plan](std::size_t shard) { return plan.items_of(shard); };
  stage.prepare = [&] { best = best_scores(context, plan.shards(), scores); };
  stage.make = [&](std::size_t shard) {
    return make_verdicts(read_scores(context.dir, scores, shard), best, settings);
  };
  stage.complete = [&](StageRecord& record) { complete_record(context, scores, record); };
  run_sharded(context, stage);
}

/// Scores of the pictures and masks on the disk; their fingerprint.
std::string make_all_scores(const RunContext& context, const Plan& plan) {
  std::vector<std::string> masks;  // fingerprints
  context.world.together([&] { masks = fingerprints_of(context.dir, "annotate", plan.rounds()); });
  Scoring scoring(context, plan);
  ShardedStage stage;
  stage.name = kScoresStage;
  set_rounds(stage, plan, [&](std::size_t round) {
    return to_hex(hash128(cat(kScoresFormat, kScoresVersion, '\n', masks[round], '\n', scoring.fingerprint())));
  });
  stage.make_rows = [&](std::size_t shard, const ShardRequest& request) {
    return scoring.make(read_shard(context.dir, "generate", shard, kPicturesFormat),
                        read_shard(context.dir, "annotate", shard, kMasksFormat), request);
  };
  stage.make = [&](std::size_t shard) { return stage.make_rows(shard, {}); };
  run_sharded(context, stage);
  return stage.fingerprint;
}

/// Of a fused run, whose cut-outs hold the scores already.
std::string fused_fingerprint(const RunContext& context, const Plan& plan) {
  std::string fingerprint;
  context.world.together([&] { fingerprint = fingerprints_of(context.dir, kFused, plan.rounds()).back(); });
  return fingerprint;
}

}  // namespace

void run_filter(const RunContext& context) {
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  Plan plan;
  context.world.together([&] { plan = read_plan(context.dir); });
  const bool fused = context.config.run.fused;
  const std::string fingerprint = fused ? fused_fingerprint(context, plan) : make_all_scores(context, plan);
  make_all_verdicts(context, plan, fused ? kFused : kScoresStage, fingerprint);
}

}  // namespace divergen::stages
