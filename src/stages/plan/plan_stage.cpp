#include "stages/plan/plan_stage.hpp"

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "stages/plan/plan_input.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kStage = "plan";

bool has_shards(const RunDirectory& dir) {
  std::error_code absent;
  for (const char* stage : {"generate", "fused"})
    for (const auto& entry : std::filesystem::directory_iterator(dir.shard(stage, 0).parent_path(), absent))
      if (entry.path().extension() == ".h5") return true;
  return false;
}

/// Whether the plan in the run directory is this one. A damaged file counts as another plan.
bool stands(const RunDirectory& dir, const Plan& plan) {
  try {
    return read_plan(dir.plan()).hash() == plan.hash();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data) throw;
    log::warn("plan: ", dir.plan().string(), " is damaged: ", error.text().why);
    return false;
  }
}

/// The plan is a pure function of the configuration, so that a damaged file of the same plan, whose fingerprint the
/// record has, is just written again.
void make_room(const RunDirectory& dir, const std::string& fingerprint) {
  const auto record = read_record(dir, kStage);
  if (record && record->fingerprint == fingerprint) return;
  if (has_shards(dir))
    fail(ErrorKind::Config,
         {"the run directory holds pictures of another plan", dir.root().string(),
          "categories, prompts, generators, samples, seed or shard size have changed since it was planned",
          cat("give this configuration a run.dir of its own, or remove ", dir.plan().string(), " and ",
              dir.shard("generate", 0).parent_path().string(), " (or fused) to start over")});
  log::info("plan: the old plan is replaced; nothing was generated for it");
}

void plan_on_root(const RunContext& context) {
  const RunDirectory& dir = context.dir;
  const double start = epoch_seconds();
  const Plan plan = make_plan(plan_input(context.config));
  const std::string fingerprint = to_hex(plan.hash());
  make_folder(dir.root());
  if (std::filesystem::exists(dir.plan()) && !stands(dir, plan)) {
    make_room(dir, fingerprint);
    remove_quietly(dir.plan());
    const auto record = read_record(dir, kStage);
    if (!record || record->fingerprint != fingerprint) remove_quietly(dir.retries());  // they are of the old plan
  }
  const bool is_new = !std::filesystem::exists(dir.plan());
  if (is_new) write_plan(plan, dir.plan());
  const auto record = read_record(dir, kStage);
  if (!is_new && record && record->fingerprint == fingerprint) {
    log::info("plan: complete already");
    return;
  }
  const double end = epoch_seconds();
  StageRecord made;
  made.stage = kStage;
  made.fingerprint = fingerprint;
  made.seconds = end - start;
  made.items = static_cast<std::int64_t>(plan.size());
  made.ranks = {{0, context.world.host(), made.items, made.seconds, start, end}};
  made.figures["shards"] = static_cast<double>(plan.shards());
  made.figures["categories"] = static_cast<double>(plan.categories.size());
  made.figures["prompts"] = static_cast<double>(plan.prompts.size());
  write_record(dir, made);
  log::info("plan: ", with_thousands(made.items), " items of ", plan.categories.size(), " categories, ",
            plan.prompts.size(), " prompts and ", plan.generators.size(), " generators in ", plan.shards(), " shards");
}

}  // namespace

void run_plan(const RunContext& context) {
  context.world.together([&] {
    if (context.world.is_root()) plan_on_root(context);
  });
}

}  // namespace divergen::stages
