#include "stages/filter/filter.hpp"

#include <ATen/Parallel.h>

#include <nlohmann/json.hpp>

#include "base/hash.hpp"
#include "base/log.hpp"
#include "models/generator.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/common/sharded.hpp"
#include "stages/filter/reference.hpp"
#include "stages/filter/scores.hpp"
#include "stages/filter/verdict.hpp"
#include "stages/generate/generate.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kStage = "filter";
constexpr const char* kScoresStage = "filter.scores";

ShardedStage stage_over(const Plan& plan, const char* name, std::string fingerprint) {
  ShardedStage stage;
  stage.name = name;
  stage.shards = plan.shards();
  stage.fingerprint = std::move(fingerprint);
  stage.items = [&plan](std::size_t shard) {
    const auto range = plan.shard(shard);
    return static_cast<std::int64_t>(range.last - range.first);
  };
  return stage;
}

void make_all_scores(const RunContext& context, const Plan& plan, const std::string& fingerprint,
                     const std::string& clip_hash, const Reference& reference, const LazyScorer& scorer) {
  std::map<std::int32_t, std::string> names;
  for (const PlanCategory& category : plan.categories) names[category.id] = category.name;
  ShardedStage stage = stage_over(plan, kScoresStage, fingerprint);
  stage.make = [&](std::size_t shard) {
    store::Table scores =
        make_scores(read_shard(context.dir, "generate", shard, kPicturesFormat),
                    read_shard(context.dir, "annotate", shard, kMasksFormat), reference, names, scorer());
    scores.attributes["weights_hash"] = clip_hash;  // the pool's provenance
    return scores;
  };
  run_sharded(context, stage);
}

/// Best score of every category over all shards, on all ranks. Collective: each rank reads every size-th shard.
std::map<std::int32_t, float> best_scores(const RunContext& context, std::size_t shards) {
  comm::World& world = context.world;
  std::map<std::int32_t, float> best;
  world.together([&] {
    for (auto s = static_cast<std::size_t>(world.rank()); s < shards; s += static_cast<std::size_t>(world.size()))
      add_best_scores(read_shard(context.dir, kScoresStage, s, kScoresFormat), best);
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
void complete_record(const RunContext& context, StageRecord& record) {
  if (!context.world.is_root()) return;
  std::int64_t rejected = 0;
  for (const auto& [reason, count] : record.rejected) rejected += count;
  record.figures["kept"] = static_cast<double>(record.items - rejected);
  for (const char* pass : {"filter.reference", kScoresStage})
    if (const auto earlier = read_record(context.dir, pass)) {
      record.seconds += earlier->seconds;
      record.figures[cat(pass, "_seconds")] = earlier->seconds;
    }
  log::info("filter: ", record.items - rejected, " of ", record.items, " items are kept");
}

void make_all_verdicts(const RunContext& context, const Plan& plan, const std::string& scores_fingerprint) {
  const auto& settings = context.config.filter;
  std::map<std::int32_t, float> best;
  ShardedStage stage =
      stage_over(plan, kStage,
                 to_hex(hash128(cat(kVerdictsFormat, kVerdictsVersion, '\n', scores_fingerprint, '\n',
                                    settings.similarity, '\n', settings.tolerance, '\n', settings.min_clip_score, '\n',
                                    settings.min_area, '\n', settings.max_area))));
  stage.prepare = [&] { best = best_scores(context, plan.shards()); };
  stage.make = [&](std::size_t shard) {
    return make_verdicts(read_shard(context.dir, kScoresStage, shard, kScoresFormat), best, settings);
  };
  stage.complete = [&](StageRecord& record) { complete_record(context, record); };
  run_sharded(context, stage);
}

}  // namespace

void run_filter(const RunContext& context) {
  const auto& settings = context.config.filter;
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  Plan plan;
  std::string clip_hash, masks;
  context.world.together([&] {
    plan = read_plan(context.dir.plan());
    masks = fingerprint_of(context.dir, "annotate");
    if (!context.world.is_root()) return;
    check_clip_folder(settings.clip);
    clip_hash = models::hash_weights(settings.clip);
  });
  clip_hash = context.world.broadcast_text(std::move(clip_hash));

  // Passes are padded to a whole batch, so one that no shard can fill would only cost.
  const std::int64_t batch = std::min<std::int64_t>(settings.batch, plan.shard_items);
  std::unique_ptr<ClipScorer> clip;
  const LazyScorer scorer = [&]() -> ClipScorer& {
    if (!clip) clip = std::make_unique<ClipScorer>(settings.clip, batch);
    return *clip;
  };
  const Reference reference = make_reference(context, plan, clip_hash, scorer);
  const std::string scores_fingerprint = to_hex(hash128(cat(kScoresFormat, kScoresVersion, '\n', masks, '\n', clip_hash,
                                                            '\n', reference.fingerprint, '\n', settings.batch)));
  make_all_scores(context, plan, scores_fingerprint, clip_hash, reference, scorer);
  make_all_verdicts(context, plan, scores_fingerprint);
}

}  // namespace divergen::stages
