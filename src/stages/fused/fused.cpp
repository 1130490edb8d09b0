#include "stages/fused/fused.hpp"

#include <ATen/Parallel.h>

#include <array>
#include <chrono>

#include "base/clock.hpp"
#include "base/hash.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/common/sharded.hpp"
#include "stages/filter/filter.hpp"
#include "stages/generate/generate.hpp"
#include "stages/pool/cutouts.hpp"
#include "stages/pool/pool.hpp"

namespace divergen::stages {
namespace {

/// Where the time of a rank goes.
enum Part { kGenerate, kAnnotate, kScore, kParts };
constexpr std::array<const char*, kParts> kShares{"generate_share", "annotate_share", "score_share"};

class Stopwatch {
 public:
  /// Adds the time since the last call, or since it was made, to `part`.
  void lap(std::array<double, kParts>& seconds, Part part) {
    const auto now = std::chrono::steady_clock::now();
    seconds[part] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// Pictures that are not made again tell their size by the rows that are kept: batches of the annotator hold pictures
/// of one size.
store::Table with_sizes(const store::Table& pictures, const store::KeptRows& kept) {
  store::Table out(pictures.format(), pictures.version());
  for (const store::Column& column : pictures.columns()) {
    if (column.name != "width" && column.name != "height") {
      std::visit([&](const auto& values) { out.add(column.name, values); }, column.values);
      continue;
    }
    auto values = pictures.get<std::int32_t>(column.name);
    const auto& sizes = kept.rows.get<std::int32_t>(column.name);
    for (std::size_t i = 0; i < kept.places.size(); ++i) values[kept.places[i]] = sizes[i];
    out.add(column.name, std::move(values));
  }
  std::vector<std::string> heap;
  for (std::size_t row = 0; row < pictures.rows(); ++row) heap.emplace_back(pictures.heap(row));
  out.set_heap(heap);
  out.attributes = pictures.attributes;
  return out;
}

class Fuser {
 public:
  Fuser(const RunContext& context, const Plan& plan)
      : context_(context),
        generators_(generators_text(context, plan)),
        model_(context, plan),
        masking_(context, plan),
        scoring_(context, plan) {}

  std::string fingerprint(std::uint64_t plan_hash) const {
    return to_hex(
        hash128(cat(kCutoutsFormat, kCutoutsVersion, '\n', pictures_fingerprint(plan_hash, generators_), '\n',
                    masking_.text(), '\n', scoring_.fingerprint(), '\n', context_.config.pool.alpha_threshold)));
  }
  Canary canary(std::size_t shard) { return model_.canary(shard, generators_); }
  const std::string& device_name() const { return model_.device_name(); }

  store::Table make(std::size_t shard, const ShardRequest& request) {
    Stopwatch watch;
    // Masks that depend on all pictures of a category need those of the kept rows, too: nothing else of them is made.
    const bool is_whole = request.kept == nullptr || masking_.needs_all_pictures();
    store::Table pictures = model_.pictures(shard, is_whole ? ShardRequest{nullptr, request.isolate} : request);
    if (!is_whole) pictures = with_sizes(pictures, *request.kept);
    watch.lap(seconds_, kGenerate);
    const store::Table masks = masking_.make(pictures, request);
    watch.lap(seconds_, kAnnotate);
    const store::Table scores = scoring_.make(pictures, masks, request);
    store::Table table =
        make_cutouts(pictures, masks, scores, static_cast<int>(context_.config.pool.alpha_threshold), request);
    watch.lap(seconds_, kScore);
    // A picture that could not be made is empty, and so cannot be read either.
    const std::int64_t not_made = rejected_for(pictures, kFailed);
    set_rejected(table, {{kFailed, not_made + rejected_for(masks, kFailed) + rejected_for(scores, kFailed)},
                         {kUnreadable, rejected_for(masks, kUnreadable) - not_made}});
    return table;
  }

  /// Collective.
  void add_shares(StageRecord& record) const {
    std::array<double, kParts> all = seconds_;
    context_.world.sum(std::span<double>(all));
    double sum = 0;
    for (const double seconds : all) sum += seconds;
    if (sum <= 0) return;
    for (std::size_t part = 0; part < kParts; ++part) record.figures[kShares[part]] = all[part] / sum;
  }

 private:
  const RunContext& context_;
  std::string generators_;
  CurrentModel model_;
  Masking masking_;
  Scoring scoring_;
  std::array<double, kParts> seconds_{};
};

void make_all_cutouts(const RunContext& context, const Plan& plan) {
  Fuser fuser(context, plan);
  ShardedStage stage;
  stage.name = kFusedStage;
  set_rounds(stage, plan, [&](std::size_t round) { return fuser.fingerprint(plan.hash(round)); });
  stage.make = [&](std::size_t shard) { return fuser.make(shard, {}); };
  stage.make_rows = [&](std::size_t shard, const ShardRequest& request) { return fuser.make(shard, request); };
  stage.canary = [&](std::size_t shard) { return fuser.canary(shard); };
  stage.device = fuser.device_name();
  stage.complete = [&](StageRecord& record) { fuser.add_shares(record); };
  run_sharded(context, stage);
}

}  // namespace

void run_fused(const RunContext& context) {
  DIVERGEN_CHECK(context.config.run.fused, "run.fused is off");
  at::set_num_threads(static_cast<int>(context.config.run.threads_per_rank));
  Plan plan;
  context.world.together([&] {
    fingerprint_of(context.dir, "plan");
    plan = read_plan(context.dir);
  });
  make_all_cutouts(context, plan);
  run_filter(context);
  run_pool(context);
}

}  // namespace divergen::stages
