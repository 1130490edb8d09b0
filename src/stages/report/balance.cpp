#include "stages/report/balance.hpp"

#include <unordered_set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "stages/plan/retries.hpp"
#include "store/library.hpp"
#include "store/table_file.hpp"

namespace divergen::stages::report {
namespace {

/// The columns of a shard, of the rows that the plan has for it.
store::Table columns_of(const RunDirectory& dir, const std::string& stage, const Plan& plan, std::size_t shard) {
  store::Table table = store::TableFile(dir.shard(stage, shard)).columns();
  const auto range = plan.shard(shard);
  const auto& ids = table.get<std::uint64_t>("item_id");
  if (ids.size() != range.last - range.first ||
      !std::equal(ids.begin(), ids.end(), plan.item_id.begin() + static_cast<std::ptrdiff_t>(range.first)))
    fail(ErrorKind::Data, {"a shard does not hold the items of the plan", dir.shard(stage, shard).string(), "",
                           "run the stages again: they make again what does not fit"});
  return table;
}

}  // namespace

bool Balance::adds_up() const {
  std::int64_t sum = kept;
  for (const auto& [reason, count] : rejected) sum += count;
  return planned + retries == failed + made && made == sum;
}

std::map<std::int32_t, Balance> balance_of(const RunDirectory& dir) {
  const Plan plan = read_plan(dir);
  const store::Library library(dir.library());
  std::unordered_set<std::uint64_t> in_library;
  in_library.reserve(library.size());
  for (const auto& entry : library.entries()) in_library.insert(entry.item_id);
  const std::string pictures = std::filesystem::exists(dir.shard("generate", 0)) ? "generate" : "fused";
  const std::size_t planned = plan.rounds() > 1 ? plan.round_starts[1] : plan.size();

  std::map<std::int32_t, Balance> out;
  for (const PlanCategory& category : plan.categories) out[category.id];
  for (std::size_t shard = 0; shard < plan.shards(); ++shard) {
    const store::Table made = columns_of(dir, pictures, plan, shard), judged = columns_of(dir, "filter", plan, shard);
    const auto reasons = nlohmann::json::parse(judged.documents.at("reasons")).get<std::vector<std::string>>();
    const auto& kept = judged.get<std::uint8_t>("kept");
    const auto& reason = judged.get<std::int32_t>("reason");
    for (std::size_t i = 0, row = plan.shard(shard).first; i < made.rows(); ++i, ++row) {
      Balance& one = out[plan.categories[static_cast<std::size_t>(plan.category[row])].id];
      ++(row < planned ? one.planned : one.retries);
      if (made.get<std::int32_t>("width")[i] == 0) {
        ++one.failed;
        continue;
      }
      ++one.made;
      if (in_library.contains(plan.item_id[row])) ++one.kept;
      else ++one.rejected[kept[i] != 0 ? kNotCutOut : reasons.at(static_cast<std::size_t>(reason[i]))];
    }
  }
  return out;
}

Balance total_of(const std::map<std::int32_t, Balance>& balances) {
  Balance sum;
  for (const auto& [id, one] : balances) {
    sum.planned += one.planned;
    sum.retries += one.retries;
    sum.failed += one.failed;
    sum.made += one.made;
    sum.kept += one.kept;
    for (const auto& [reason, count] : one.rejected) sum.rejected[reason] += count;
  }
  return sum;
}

}  // namespace divergen::stages::report
