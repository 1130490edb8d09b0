#include "stages/pool/pool.hpp"

#include <algorithm>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "stages/common/sharded.hpp"
#include "stages/pool/cut_out.hpp"

namespace divergen::stages {
namespace {

using Counts = std::map<std::string, std::int64_t>;

constexpr const char* kStage = "pool";
constexpr int kRules = 2;  // of cutting and of the library's contents: another number makes all pools again
constexpr const char* kSoftware = "divergen " DIVERGEN_VERSION;

constexpr const char* kPictures = "divergen-pictures";
constexpr const char* kMasks = "divergen-masks";
constexpr const char* kVerdicts = "divergen-verdicts";

void check_rows(const Plan& plan, Plan::Range range, const store::Table& table) {
  const auto& ids = table.get<std::uint64_t>("item_id");
  if (ids.size() == range.last - range.first &&
      std::equal(ids.begin(), ids.end(), plan.item_id.begin() + static_cast<std::ptrdiff_t>(range.first)))
    return;
  fail(ErrorKind::Data, {"a shard does not hold the items of the plan", cat("a '", table.format(), "' table"),
                         cat(ids.size(), " rows for items ", range.first, " to ", range.last, " of the plan"),
                         "run the stages again from `divergen generate` on: they make again what does not fit"});
}

/// A list of names that a stage left in its tables.
std::vector<std::string> texts_of(const store::Table& table, const char* document, const char* stage) {
  try {
    return nlohmann::json::parse(table.documents.at(document)).get<std::vector<std::string>>();
  } catch (const std::exception& error) {
    fail(ErrorKind::Data, {"a list of names in a stage's table cannot be read", cat("document '", document, "'"),
                           error.what(), cat("run `divergen ", stage, "` again")});
  }
}

/// The cut-out of row `row`, or nothing and why.
std::optional<CutOut> cut_row(const FilteredShard& shard, std::size_t row, int threshold, std::string& reason) {
  const auto picture = image::decode(shard.pictures.heap(row), image::Channels::Rgb);
  const auto mask = image::decode(shard.masks.heap(row), image::Channels::Grey);
  if (!picture.image || !mask.image || picture.image->width != mask.image->width ||
      picture.image->height != mask.image->height) {
    reason = "unreadable";
    return std::nullopt;
  }
  CutOut cut = cut_out(*picture.image, *mask.image, threshold);
  if (cut.problem == CutProblem::None) return cut;
  reason = cut.problem == CutProblem::Empty ? "empty" : "thin";
  return std::nullopt;
}

store::Instance instance_of(const FilteredShard& shard, std::size_t row, const CutOut& cut) {
  store::Instance out;
  out.item_id = shard.pictures.get<std::uint64_t>("item_id")[row];
  out.seed = shard.pictures.get<std::uint64_t>("seed")[row];
  out.category_id = shard.pictures.get<std::int32_t>("category")[row];
  out.generator = shard.pictures.get<std::int32_t>("generator")[row];
  out.prompt = shard.pictures.get<std::int32_t>("prompt")[row];
  out.sample = shard.pictures.get<std::int32_t>("sample")[row];
  out.source_width = shard.pictures.get<std::int32_t>("width")[row];
  out.source_height = shard.pictures.get<std::int32_t>("height")[row];
  out.width = cut.rgba.width;
  out.height = cut.rgba.height;
  out.box_x = cut.x;
  out.box_y = cut.y;
  out.area = cut.area;
  out.similarity = shard.verdicts.get<float>("similarity")[row];
  out.clip_score = shard.verdicts.get<float>("clip_score")[row];
  if (cut.touches_border) out.flags |= store::kTouchesBorder;
  if (cut.parts_dropped) out.flags |= store::kPartsDropped;
  if (shard.masks.has("annotator")) {
    const std::vector<std::string> names = texts_of(shard.masks, "annotators", "annotate");
    for (const std::string& name : names)
      out.annotator_scores.emplace_back(name, shard.masks.get<float>("annotator_score." + name)[row]);
    const auto chosen = static_cast<std::size_t>(shard.masks.get<std::int32_t>("annotator")[row]);
    DIVERGEN_CHECK(chosen < names.size(), chosen);
    out.annotator = names[chosen];
  }
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
  std::string text;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    Makers makers;
    makers.weights.resize(plan.generators.size());
    makers.libtorch.resize(plan.generators.size());
    for (std::size_t s = 0; s < plan.shards(); ++s) {
      const auto generator = static_cast<std::size_t>(plan.generator[plan.shard(s).first]);
      if (!makers.weights[generator].empty()) continue;
      makers.weights[generator] = attribute_of(context, "generate", s, "weights_hash");
      makers.libtorch[generator] = attribute_of(context, "generate", s, "libtorch");
    }
    text = nlohmann::json{{"weights", makers.weights},
                          {"libtorch", makers.libtorch},
                          {"annotator", attribute_of(context, "annotate", 0, "weights_hash")},
                          {"clip", attribute_of(context, "filter.scores", 0, "weights_hash")}}
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
               std::vector<store::Instance>& instances, Counts& rejected) {
  for (const store::Table* table : {&shard.pictures, &shard.masks, &shard.verdicts}) check_rows(plan, range, *table);
  const std::vector<std::string> reasons = texts_of(shard.verdicts, "reasons", "filter");
  const auto& kept = shard.verdicts.get<std::uint8_t>("kept");
  const auto& reason = shard.verdicts.get<std::int32_t>("reason");
  for (std::size_t row = 0; row < kept.size(); ++row) {
    if (kept[row] == 0) {
      const auto index = static_cast<std::size_t>(reason[row]);
      if (reason[row] < 0 || index >= reasons.size())
        fail(ErrorKind::Data,
             {"a verdict has no reason", cat("row ", row), cat("reason ", reason[row]), "run `divergen filter` again"});
      ++rejected[reasons[index]];
      continue;
    }
    std::string problem;
    if (const auto cut = cut_row(shard, row, alpha_threshold, problem)) {
      instances.push_back(instance_of(shard, row, *cut));
    } else {
      ++rejected[problem];
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

void run_pool(const RunContext& context) {
  const config::PoolSettings& settings = context.config.pool;
  Plan plan;
  std::string verdicts;
  context.world.together([&] {
    plan = read_plan(context.dir.plan());
    verdicts = fingerprint_of(context.dir, "filter");
  });
  const std::vector<ShardGroup> groups = group_shards(plan, settings.shard_rows);
  store::LibraryTables tables;

  ShardedStage stage;
  stage.name = kStage;
  stage.shards = groups.size();
  stage.fingerprint = to_hex(hash128(cat(kStage, kRules, '\n', store::kLibraryVersion, '\n', verdicts, '\n',
                                         settings.alpha_threshold, '\n', settings.shard_rows)));
  stage.products = {context.dir.library() / "index.h5"};
  stage.items = [&](std::size_t group) { return groups[group].items; };
  stage.prepare = [&] { tables = library_tables(context, plan, stage.fingerprint); };
  stage.make = [&](std::size_t group) {
    std::vector<store::Instance> instances;
    Counts rejected;
    for (std::size_t s = groups[group].first; s < groups[group].last; ++s)
      pool_rows(plan, plan.shard(s),
                {read_shard(context.dir, "generate", s, kPictures), read_shard(context.dir, "annotate", s, kMasks),
                 read_shard(context.dir, "filter", s, kVerdicts)},
                static_cast<int>(settings.alpha_threshold), instances, rejected);
    store::Table table = store::make_library_table(instances, tables);
    set_rejected(table, rejected);
    return table;
  };
  stage.complete = [&](StageRecord& record) { complete_library(context, record); };
  run_sharded(context, stage);
}

}  // namespace divergen::stages
