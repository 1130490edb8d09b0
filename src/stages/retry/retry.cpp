#include "stages/retry/retry.hpp"

#include <unordered_set>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/common/sharded.hpp"
#include "stages/filter/filter.hpp"
#include "stages/fused/fused.hpp"
#include "stages/generate/generate.hpp"
#include "stages/plan/retries.hpp"
#include "stages/pool/pool.hpp"
#include "store/library.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kStage = "retry";

/// All rounds that are planned so far.
void make_what_is_planned(const RunContext& context) {
  if (context.config.run.fused) return run_fused(context);
  run_generate(context);
  run_annotate(context);
  run_filter(context);
  run_pool(context);
}

/// Of each row of the plan, whether the library lacks it.
std::vector<std::uint8_t> wanting(const RunContext& context, const Plan& plan) {
  const store::Library library(context.dir.library());
  std::unordered_set<std::uint64_t> there;
  there.reserve(library.size());
  for (const auto& entry : library.entries()) there.insert(entry.item_id);
  std::vector<std::uint8_t> out(plan.size());
  for (std::size_t row = 0; row < plan.size(); ++row) out[row] = there.contains(plan.item_id[row]) ? 0 : 1;
  return out;
}

/// How many of the plan's own items have no instance; retries fill in for them.
std::int64_t missing(const Plan& plan, const std::vector<std::uint8_t>& is_wanting) {
  const std::size_t own = plan.rounds() > 1 ? plan.round_starts[1] : plan.size();
  std::int64_t there = 0;
  for (const std::uint8_t wants : is_wanting) there += wants == 0;
  return static_cast<std::int64_t>(own) - there;
}

/// On rank 0. Adds a round to the plan; false when there is nothing to retry.
bool plan_round(const RunContext& context) {
  Plan plan = read_plan(context.dir);
  const std::vector<std::uint8_t> is_wanting = wanting(context, plan);
  const std::int64_t open = missing(plan, is_wanting);
  const std::size_t added = add_retries(plan, context.config.seed, is_wanting, context.config.plan.retry_rejected);
  if (added == 0) {
    log::info("retry: nothing left to try; ", with_thousands(open), " planned items have no instance");
    return false;
  }
  write_retries(plan, context.dir);
  log::info("retry: round ", plan.rounds() - 1, ": ", with_thousands(static_cast<std::int64_t>(added)),
            " further samples for ", with_thousands(open), " planned items without an instance");
  return true;
}

void write_summary(const RunContext& context, double seconds) {
  const Plan plan = read_plan(context.dir);
  const std::vector<std::uint8_t> is_wanting = wanting(context, plan);
  const std::size_t own = plan.rounds() > 1 ? plan.round_starts[1] : plan.size();
  std::int64_t own_missing = 0;
  for (std::size_t row = 0; row < own; ++row) own_missing += is_wanting[row];
  StageRecord record;
  record.stage = kStage;
  record.fingerprint = to_hex(
      hash128(cat(to_hex(plan.hash()), context.config.plan.retry_rejected, fingerprint_of(context.dir, "pool"))));
  const auto before = read_record(context.dir, kStage);
  if (before && before->fingerprint == record.fingerprint) {
    log::info("retry: complete already");
    return;
  }
  record.seconds = seconds + (before ? before->seconds : 0);
  record.items = static_cast<std::int64_t>(plan.size() - own);
  record.figures["rounds"] = static_cast<double>(plan.rounds() - 1);
  record.figures["wanted"] = static_cast<double>(own_missing);
  record.figures["met"] = static_cast<double>(own_missing - missing(plan, is_wanting));
  for (std::size_t row = own; row < plan.size(); ++row)
    if (is_wanting[row] != 0) ++record.rejected[kRetriesInVain];
  write_record(context.dir, record);
}

}  // namespace

void run_retry(const RunContext& context) {
  comm::World& world = context.world;
  double seconds = 0;
  // Each round adds an attempt to every chain, and one more may be needed where a better picture has raised the bar of
  // a whole category (filter/verdict.hpp).
  for (;;) {
    make_what_is_planned(context);
    const double start = epoch_seconds();
    bool goes_on = false;
    world.together([&] {
      if (world.is_root()) goes_on = plan_round(context);
    });
    goes_on = world.any(goes_on);
    seconds += epoch_seconds() - start;
    if (!goes_on) break;
  }
  world.together([&] {
    if (world.is_root()) write_summary(context, seconds);
  });
}

}  // namespace divergen::stages
