#include "stages/pool/pool.hpp"

#include <algorithm>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "stages/common/sharded.hpp"
#include "stages/plan/retries.hpp"
#include "stages/pool/rows.hpp"

namespace divergen::stages {
namespace {

using Counts = std::map<std::string, std::int64_t>;

constexpr const char* kStage = "pool";
constexpr int kRules = 2;  // of cutting and of the library's contents: another number makes all pools again
constexpr const char* kSoftware = "divergen " DIVERGEN_VERSION;

constexpr const char* kPictures = "divergen-pictures";
constexpr const char* kMasks = "divergen-masks";
constexpr const char* kVerdicts = "divergen-verdicts";
constexpr const char* kFused = "fused";

store::Instance instance_of(const FilteredShard& shard, const AnnotatorChoice& choice, std::size_t row,
                            const CutOut& cut) {
  store::Instance out = planned_part(shard.pictures, row);
  out.width = cut.rgba.width;
  out.height = cut.rgba.height;
  out.box_x = cut.x;
  out.box_y = cut.y;
  out.area = cut.area;
  out.similarity = shard.verdicts.get<float>("similarity")[row];
  out.clip_score = shard.verdicts.get<float>("clip_score")[row];
  out.flags = flags_of(cut);
  choice.tell(row, out);
  out.png = image::encode_png(cut.rgba);
  return out;
}

/// An attribute of a shard that earlier stages wrote; "" when it has none of this name.
std::string attribute_of(const RunContext& context, const std::string& stage, std::size_t shard,
                         const std::string& name) {
  const Path file = context.dir.shard(stage, shard);
  if (!std::filesystem::exists(file)) return "";
  const auto head = store::read_table_head(file);
  const auto found = head.attributes.find(name);
  return found == head.attributes.end() ? "" : found->second;
}

/// What the pictures, masks and scores were made with, as their shards say.
struct Makers {
  std::vector<std::string> weights, libtorch;  // of each generator of the plan
  std::string annotator, clip;                 // hashes of their weights
};

/// Collective: the first rank reads, the others are told.
Makers makers_of(const RunContext& context, const Plan& plan) {
  const bool fused = context.config.run.fused;
  const std::string pictures = fused ? kFused : "generate";
  std::string text;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    Makers makers;
    makers.weights.resize(plan.generators.size());
    makers.libtorch.resize(plan.generators.size());
    for (std::size_t s = 0; s < plan.shards(); ++s) {
      const auto generator = static_cast<std::size_t>(plan.generator[plan.shard(s).first]);
      if (!makers.weights[generator].empty()) continue;
      makers.weights[generator] = attribute_of(context, pictures, s, "weights_hash");
      makers.libtorch[generator] = attribute_of(context, pictures, s, "libtorch");
    }
    text = nlohmann::json{{"weights", makers.weights},
                          {"libtorch", makers.libtorch},
                          {"annotator", fused ? attribute_of(context, kFused, 0, "annotator_hash")
                                              : attribute_of(context, "annotate", 0, "weights_hash")},
                          {"clip", fused ? attribute_of(context, kFused, 0, "clip_hash")
                                         : attribute_of(context, "filter.scores", 0, "weights_hash")}}
               .dump();
  });
  const auto told = nlohmann::json::parse(context.world.broadcast_text(std::move(text)));
  return {told.at("weights"), told.at("libtorch"), told.at("annotator"), told.at("clip")};
}

store::LibraryTables library_tables(const RunContext& context, const Plan& plan, const std::string& fingerprint) {
  const Makers makers = makers_of(context, plan);
  store::LibraryTables tables;
  for (const PlanCategory& category : plan.categories)
    tables.categories.push_back({category.id, category.name, category.frequency, category.is_extra});
  for (std::size_t g = 0; g < plan.generators.size(); ++g) {
    store::LibraryGenerator generator;
    generator.name = plan.generators[g];
    generator.weights_hash = makers.weights[g];
    generator.software = kSoftware;
    if (!makers.libtorch[g].empty()) generator.software += ", LibTorch " + makers.libtorch[g];
    for (const auto& settings : context.config.generators) {
      if (settings.name != generator.name) continue;
      generator.kind = settings.kind;
      generator.sampler = settings.sampler;
      generator.steps = settings.steps;
      generator.guidance = settings.guidance;
      generator.negative_prompt = settings.negative_prompt;
      generator.size = settings.size;
      generator.batch = settings.batch;
    }
    tables.generators.push_back(generator);
  }
  tables.prompts = plan.prompts;
  tables.annotator_hash = makers.annotator;
  tables.clip_hash = makers.clip;
  tables.config_hash = fingerprint;
  tables.software = kSoftware;
  return tables;
}

std::string counts_text(const Counts& counts) {
  std::string text;
  for (const auto& [reason, count] : counts) text += cat(text.empty() ? "" : ", ", reason, " ", with_thousands(count));
  return text;
}

/// The index and the totals. Collective; the first rank works.
void complete_library(const RunContext& context, StageRecord& record) {
  context.world.together([&] {
    if (!context.world.is_root()) return;
    std::int64_t kept = record.items;
    for (const auto& [reason, count] : record.rejected) kept -= count;
    if (kept == 0)
      fail(ErrorKind::Data,
           {"no instance was kept", context.dir.library().string(),
            cat("all ", with_thousands(record.items), " items were rejected: ", counts_text(record.rejected)),
            "loosen the rule of [filter] that rejects most, or look at the pictures with "
            "`divergen report`; then run `divergen filter` and `divergen pool` again"});
    store::write_library_index(context.dir.library());
    const store::Library library(context.dir.library());
    DIVERGEN_CHECK(static_cast<std::int64_t>(library.size()) == kept, library.size(), " instances, ", kept, " kept");
    record.figures["instances"] = static_cast<double>(kept);
    log::info("pool: ", with_thousands(kept), " instances of ", library.per_category().size(), " categories; rejected ",
              with_thousands(record.items - kept), record.items == kept ? "" : ": ", counts_text(record.rejected));
  });
}

}  // namespace

void pool_rows(const Plan& plan, Plan::Range range, const FilteredShard& shard, int alpha_threshold,
               std::vector<store::Instance>& instances, Counts& rejected, const PoolRequest& request) {
  for (const store::Table* table : {&shard.pictures, &shard.masks, &shard.verdicts}) check_rows(plan, range, *table);
  const Verdicts judged(shard.verdicts);
  const AnnotatorChoice choice(shard.masks);
  const auto& ids = shard.pictures.get<std::uint64_t>("item_id");
  for (std::size_t row = 0; row < ids.size(); ++row) {
    if (const std::string* reason = judged.rejected(row)) {
      ++rejected[*reason];
      continue;
    }
    if (request.have != nullptr) {
      if (const auto found = request.have->find(ids[row]); found != request.have->end()) {
        instances.push_back(found->second);
        continue;
      }
    }
    try {
      const CutRow cut = cut_row(shard.pictures, shard.masks, row, alpha_threshold);
      if (cut.state == CutState::Cut) instances.push_back(instance_of(shard, choice, row, cut.cut));
      else ++rejected[reason_of(cut.state)];
    } catch (const std::exception& error) {
      if (!request.isolate) throw;
      ++rejected[kFailed];
      log::warn("pool: item ", to_hex(ids[row]), " cannot be cut out: ", error.what());
    }
  }
}

std::vector<ShardGroup> group_shards(const Plan& plan, std::int64_t shard_rows) {
  const std::int64_t most = std::clamp<std::int64_t>(shard_rows, 1, store::kShardRows);
  std::vector<ShardGroup> groups;
  for (std::size_t s = 0; s < plan.shards(); ++s) {
    const auto range = plan.shard(s);
    const auto items = static_cast<std::int64_t>(range.last - range.first);
    if (groups.empty() || groups.back().items + items > most) groups.push_back({s, s, 0});
    groups.back().last = s + 1;
    groups.back().items += items;
  }
  return groups;
}

namespace {

/// The shard of the library that holds what was kept of a group of shards.
store::Table make_group(const RunContext& context, const Plan& plan, const ShardGroup& group,
                        const store::LibraryTables& tables, const ShardRequest& request) {
  std::map<std::uint64_t, store::Instance> have;  // instances of a damaged shard that verified: not cut out again
  if (request.kept != nullptr)
    for (store::Instance& one : store::instances_of(request.kept->rows)) have.emplace(one.item_id, std::move(one));
  std::vector<store::Instance> instances;
  Counts rejected;
  for (std::size_t s = group.first; s < group.last; ++s) {
    const store::Table verdicts = read_shard(context.dir, "filter", s, kVerdicts);
    if (context.config.run.fused)
      pool_cutouts(plan, plan.shard(s), read_shard(context.dir, kFused, s, kCutoutsFormat), verdicts, instances,
                   rejected);
    else
      pool_rows(
          plan, plan.shard(s),
          {read_shard(context.dir, "generate", s, kPictures), read_shard(context.dir, "annotate", s, kMasks), verdicts},
          static_cast<int>(context.config.pool.alpha_threshold), instances, rejected, {&have, request.isolate});
  }
  store::Table table = store::make_library_table(instances, tables);
  set_rejected(table, rejected);
  return table;
}

}  // namespace

void run_pool(const RunContext& context) {
  const config::PoolSettings& settings = context.config.pool;
  Plan plan;
  std::string verdicts;
  context.world.together([&] {
    plan = read_plan(context.dir);
    verdicts = fingerprint_of(context.dir, "filter");
  });
  const std::vector<ShardGroup> groups = group_shards(plan, settings.shard_rows);
  std::optional<store::LibraryTables> tables;

  ShardedStage stage;
  stage.name = kStage;
  stage.shards = groups.size();
  stage.fingerprint = to_hex(hash128(cat(kStage, kRules, '\n', store::kLibraryVersion, '\n', verdicts, '\n',
                                         settings.alpha_threshold, '\n', settings.shard_rows)));
  stage.products = {context.dir.library() / "index.h5"};
  stage.items = [&](std::size_t group) { return groups[group].items; };
  stage.prepare = [&] { tables = library_tables(context, plan, stage.fingerprint); };
  stage.make = [&](std::size_t group) { return make_group(context, plan, groups[group], *tables, {}); };
  stage.make_rows = [&](std::size_t group, const ShardRequest& request) {
    return make_group(context, plan, groups[group], *tables, request);
  };
  stage.complete = [&](StageRecord& record) { complete_library(context, record); };
  run_sharded(context, stage);
}

}  // namespace divergen::stages
