#include "stages/plan/retries.hpp"

#include <algorithm>
#include <tuple>
#include <unordered_set>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "store/library.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kFormat = "divergen-plan";
constexpr int kVersion = 1;

void append(Plan& plan, const store::Table& table) {
  const auto add = [&](auto& column, const char* name) {
    const auto& more = table.get<typename std::decay_t<decltype(column)>::value_type>(name);
    column.insert(column.end(), more.begin(), more.end());
  };
  const auto& rounds = table.get<std::int32_t>("round");
  for (std::size_t row = 0; row < rounds.size(); ++row)
    if (row == 0 || rounds[row] != rounds[row - 1]) plan.round_starts.push_back(plan.size() + row);
  add(plan.item_id, "item_id");
  add(plan.seed, "seed");
  add(plan.generator, "generator");
  add(plan.category, "category");
  add(plan.prompt, "prompt");
  add(plan.sample, "sample");
  plan.cut_shards();
}

template <class T>
std::vector<T> tail(const std::vector<T>& column, std::size_t first) {
  return std::vector<T>(column.begin() + static_cast<std::ptrdiff_t>(first), column.end());
}

}  // namespace

Plan read_plan(const RunDirectory& dir) {
  Plan plan = read_plan(dir.plan());
  if (!std::filesystem::exists(dir.retries())) return plan;
  const store::Table table = store::read_table(dir.retries());
  const auto of_plan = table.attributes.find("plan");
  if (table.format() != kFormat || table.version() != kVersion || of_plan == table.attributes.end() ||
      of_plan->second != to_hex(plan.hash(0)))
    fail(ErrorKind::Data, {"the retries are those of another plan", dir.retries().string(),
                           cat("they do not name the hash ", to_hex(plan.hash(0)), " of plan.h5"),
                           "remove the file: retries are then planned anew"});
  append(plan, table);
  return plan;
}

std::size_t add_retries(Plan& plan, std::uint64_t seed, const std::vector<std::uint8_t>& is_wanting,
                        std::int64_t most) {
  DIVERGEN_CHECK(is_wanting.size() == plan.size(), is_wanting.size(), " of ", plan.size());
  struct Next {
    std::int32_t generator, category, prompt, sample;
    std::uint64_t id;
  };
  const std::unordered_set<std::uint64_t> known(plan.item_id.begin(), plan.item_id.end());
  std::vector<Next> next;
  const std::size_t own = plan.rounds() > 1 ? plan.round_starts[1] : plan.size();
  if (std::any_of(plan.sample.begin(), plan.sample.begin() + static_cast<std::ptrdiff_t>(own),
                  [](std::int32_t sample) { return store::attempt_of(sample) > 0; }))
    fail(ErrorKind::Config,
         {"a prompt has too many samples for retries", cat("more than ", store::kSamplesPerAttempt),
          "higher indices tell the attempt", "plan fewer samples of each prompt, or leave plan.retry_rejected at 0"});
  for (std::size_t row = 0; row < plan.size(); ++row) {
    const std::int32_t attempt = store::attempt_of(plan.sample[row]);
    if (is_wanting[row] == 0 || attempt >= std::min<std::int64_t>(most, store::kMostAttempts)) continue;
    Next one{plan.generator[row], plan.category[row], plan.prompt[row], plan.sample[row] + store::kSamplesPerAttempt,
             0};
    one.id = item_hash(seed, plan.generators[static_cast<std::size_t>(one.generator)],
                       plan.categories[static_cast<std::size_t>(one.category)].id,
                       plan.prompts[static_cast<std::size_t>(one.prompt)], one.sample);
    if (!known.contains(one.id)) next.push_back(one);
  }
  if (next.empty()) return 0;
  std::sort(next.begin(), next.end(), [](const Next& a, const Next& b) {
    return std::tie(a.generator, a.category, a.prompt, a.sample) <
           std::tie(b.generator, b.category, b.prompt, b.sample);
  });
  plan.round_starts.push_back(plan.size());
  for (const Next& one : next) {
    plan.item_id.push_back(one.id);
    plan.seed.push_back(noise_seed(one.id));
    plan.generator.push_back(one.generator);
    plan.category.push_back(one.category);
    plan.prompt.push_back(one.prompt);
    plan.sample.push_back(one.sample);
  }
  plan.cut_shards();
  return next.size();
}

void write_retries(const Plan& plan, const RunDirectory& dir) {
  DIVERGEN_CHECK(plan.rounds() > 1);
  const std::size_t first = plan.round_starts[1];
  store::Table table(kFormat, kVersion);
  std::vector<std::int32_t> rounds;
  for (std::size_t row = first, round = 1; row < plan.size(); ++row) {
    if (round + 1 < plan.rounds() && plan.round_starts[round + 1] <= row) ++round;
    rounds.push_back(static_cast<std::int32_t>(round));
  }
  table.add("item_id", tail(plan.item_id, first));
  table.add("seed", tail(plan.seed, first));
  table.add("generator", tail(plan.generator, first));
  table.add("category", tail(plan.category, first));
  table.add("prompt", tail(plan.prompt, first));
  table.add("sample", tail(plan.sample, first));
  table.add("round", std::move(rounds));
  table.attributes["plan"] = to_hex(plan.hash(0));
  store::write_table(table, dir.retries());
}

}  // namespace divergen::stages
