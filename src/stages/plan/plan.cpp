#include "stages/plan/plan.hpp"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/hash.hpp"
#include "base/rng.hpp"
#include "store/table.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kFormat = "divergen-plan";
constexpr int kVersion = 1;

void check_input(const PlanInput& input) {
  const auto wrong = [](std::string what, std::string object, std::string remedy) {
    fail(ErrorKind::Config, {"nothing can be planned", std::move(object), std::move(what), std::move(remedy)});
  };
  if (input.categories.empty())
    wrong("there is no category", "plan.categories", "name a category file that is not empty");
  if (input.generators.empty())
    wrong("there is no generator", "plan.generators", "name at least one [generators.<name>]");
  std::set<std::string> names;
  for (const auto& generator : input.generators) {
    if (!names.insert(generator.name).second)
      wrong("two generators share a name", generator.name, "rename one of them");
    if (generator.samples_per_prompt < 1) wrong("samples_per_prompt is below 1", generator.name, "ask for at least 1");
    DIVERGEN_CHECK(generator.quotas.empty() || generator.quotas.size() == input.categories.size());
    for (const std::int64_t quota : generator.quotas)
      if (quota < 0) wrong("one of its quotas is below 0", generator.name, "use 0 for no quota");
  }
  if (input.shard_items < 1) wrong("plan.shard_items is below 1", std::to_string(input.shard_items), "use 64 or so");
  std::set<std::int32_t> ids;
  for (const auto& category : input.categories) {
    if (category.quota < 0) wrong("its quota is below 0", category.name, "use 0 for no quota");
    if (!ids.insert(category.id).second)
      wrong("two categories share an id", std::to_string(category.id), "mend the category file");
  }
}

/// Gives each distinct text one index.
class PromptTable {
 public:
  explicit PromptTable(std::vector<std::string>& texts) : texts_(texts) {}

  /// Indices of the prompts of `category` in the sources of `generator`, each once.
  std::vector<std::int32_t> of(const PlanCategory& category, const PlanGenerator& generator) {
    std::vector<std::int32_t> out;
    std::unordered_set<std::int32_t> seen;
    for (const std::string& source : generator.sources) {
      const auto found = category.prompts.find(source);
      if (found == category.prompts.end()) continue;
      for (const std::string& text : found->second)
        if (const std::int32_t index = enter(text); seen.insert(index).second) out.push_back(index);
    }
    return out;
  }

 private:
  std::int32_t enter(const std::string& text) {
    const auto [entry, is_new] = known_.emplace(text, static_cast<std::int32_t>(texts_.size()));
    if (is_new) texts_.push_back(text);
    return entry->second;
  }
  std::vector<std::string>& texts_;
  std::unordered_map<std::string, std::int32_t> known_;
};

}  // namespace

std::uint64_t item_hash(std::uint64_t seed, std::string_view generator, std::int32_t category_id,
                        std::string_view prompt, std::int32_t sample) {
  std::uint64_t h = hash64(generator, seed);
  h = hash64(prompt, h);
  return derive_seed(h, "item", {static_cast<std::uint64_t>(category_id), static_cast<std::uint64_t>(sample)});
}

std::uint64_t noise_seed(std::uint64_t item_id) { return derive_seed(item_id, "noise"); }

std::int64_t taper_start(std::size_t items, std::size_t shard_items) {
  constexpr std::size_t kLeastShards = 1024, kPart = 8;
  return items / shard_items < kLeastShards ? Plan::kNoTaper : static_cast<std::int64_t>(items - items / kPart);
}

std::vector<Plan::Range> cut_shards(const std::vector<std::size_t>& items_of_generator, std::size_t shard_items,
                                    std::int64_t taper_from) {
  constexpr std::size_t kCut = 4;
  const std::size_t small = std::max<std::size_t>(shard_items / kCut, 1);
  std::vector<Plan::Range> ranges;
  std::size_t first = 0;
  for (const std::size_t items : items_of_generator)
    for (const std::size_t end = first + items; first < end;) {
      const bool tapers = static_cast<std::int64_t>(first) >= taper_from;
      const std::size_t last = std::min(end, first + (tapers ? small : shard_items));
      ranges.push_back({first, last});
      first = last;
    }
  return ranges;
}

void Plan::cut_shards() {
  std::vector<std::size_t> items_of_generator;  // of each round
  std::size_t round = 1;
  for (std::size_t i = 0; i < size(); ++i) {
    const bool is_next_round = round < rounds() && round_starts[round] == i;
    if (is_next_round) ++round;
    if (i == 0 || is_next_round || generator[i] != generator[i - 1]) items_of_generator.push_back(0);
    ++items_of_generator.back();
  }
  ranges_ = stages::cut_shards(items_of_generator, static_cast<std::size_t>(shard_items), taper_from);
}

std::size_t Plan::shards() const { return ranges_.size(); }

Plan::Range Plan::shard(std::size_t index) const {
  DIVERGEN_CHECK(index < ranges_.size(), index, " of ", ranges_.size());
  return ranges_[index];
}

std::int64_t Plan::items_of(std::size_t index) const {
  const Range range = shard(index);
  return static_cast<std::int64_t>(range.last - range.first);
}

std::size_t Plan::round_of(std::size_t index) const {
  const auto after = std::upper_bound(round_starts.begin(), round_starts.end(), shard(index).first);
  return static_cast<std::size_t>(after - round_starts.begin()) - 1;
}

std::uint64_t Plan::hash(std::size_t last_round) const {
  DIVERGEN_CHECK(last_round < rounds(), last_round, " of ", rounds());
  const std::size_t rows = last_round + 1 < rounds() ? round_starts[last_round + 1] : size();
  std::uint64_t h = hash64(cat(kFormat, kVersion, ":", shard_items));
  if (taper_from != kNoTaper) h = hash64(cat("taper:", taper_from), h);
  for (std::size_t row = 0; row < rows; ++row)
    h = hash64({reinterpret_cast<const char*>(&item_id[row]), sizeof item_id[row]}, h);
  for (const auto& name : generators) h = hash64(name, h);
  for (const auto& category : categories)
    h = hash64(cat(category.id, ':', category.name, ':', category.frequency, ':', category.is_extra), h);
  return h;
}

namespace {

/// Samples of a prompt at `place` of `prompts`.
std::int64_t samples_of(std::int64_t quota, std::int64_t samples_per_prompt, std::int64_t place, std::int64_t prompts) {
  return quota == 0 ? samples_per_prompt : quota / prompts + (place < quota % prompts ? 1 : 0);
}

/// Of the p-th prompt of a category, by a generator.
std::int64_t samples_of(const PlanInput& input, std::size_t g, std::size_t c, std::size_t p, std::size_t prompts) {
  const PlanGenerator& generator = input.generators[g];
  const std::int64_t quota = generator.quotas.empty() ? input.categories[c].quota : generator.quotas[c];
  return samples_of(quota, generator.samples_per_prompt, static_cast<std::int64_t>(p),
                    static_cast<std::int64_t>(prompts));
}

/// Room for so many more items at once: columns that grow leave their former selves behind as holes, in a plan of ten
/// million items some 300 MB of them.
void reserve(Plan& plan, std::size_t more) {
  const std::size_t size = plan.size() + more;
  plan.item_id.reserve(size);
  plan.seed.reserve(size);
  for (auto* column : {&plan.generator, &plan.category, &plan.prompt, &plan.sample}) column->reserve(size);
}

void add_items(Plan& plan, const PlanInput& input, std::size_t g, std::size_t c,
               const std::vector<std::int32_t>& prompts) {
  const PlanGenerator& generator = input.generators[g];
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    const auto& text = plan.prompts[static_cast<std::size_t>(prompts[p])];
    const std::int64_t samples = samples_of(input, g, c, p, prompts.size());
    for (std::int32_t sample = 0; sample < samples; ++sample) {
      const std::uint64_t id = item_hash(input.seed, generator.name, plan.categories[c].id, text, sample);
      plan.item_id.push_back(id);
      plan.seed.push_back(noise_seed(id));
      plan.generator.push_back(static_cast<std::int32_t>(g));
      plan.category.push_back(static_cast<std::int32_t>(c));
      plan.prompt.push_back(prompts[p]);
      plan.sample.push_back(sample);
    }
  }
}

/// Sorted copy instead of a set: a plan of ten million items takes 80 MB for it, not 500.
void check_ids(const Plan& plan) {
  std::vector<std::uint64_t> ids = plan.item_id;
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice == ids.end()) return;
  const auto row =
      static_cast<std::size_t>(std::find(plan.item_id.begin(), plan.item_id.end(), *twice) - plan.item_id.begin());
  fail(ErrorKind::Config, {"two items of the plan have the same id",
                           cat(plan.categories[static_cast<std::size_t>(plan.category[row])].name, ": ",
                               plan.prompts[static_cast<std::size_t>(plan.prompt[row])]),
                           "their 64-bit hashes collide", "choose another seed"});
}

}  // namespace

Plan make_plan(const PlanInput& input) {
  check_input(input);
  Plan plan;
  plan.shard_items = input.shard_items;
  for (PlanCategory category : input.categories) {
    category.prompts.clear();
    plan.categories.push_back(std::move(category));
  }
  PromptTable prompts(plan.prompts);
  for (std::size_t g = 0; g < input.generators.size(); ++g) {
    const PlanGenerator& generator = input.generators[g];
    const std::size_t before = plan.size();
    plan.generators.push_back(generator.name);
    std::vector<std::vector<std::int32_t>> prompts_of;
    std::size_t items = 0;
    for (std::size_t c = 0; c < plan.categories.size(); ++c) {
      const auto& own = prompts_of.emplace_back(prompts.of(input.categories[c], generator));
      for (std::size_t p = 0; p < own.size(); ++p)
        items += static_cast<std::size_t>(samples_of(input, g, c, p, own.size()));
    }
    reserve(plan, items);
    for (std::size_t c = 0; c < plan.categories.size(); ++c) add_items(plan, input, g, c, prompts_of[c]);
    if (plan.size() == before)
      fail(ErrorKind::Config,
           {"a generator has nothing to make", generator.name, "its prompt sources hold no prompt of any category",
            "add prompts for the planned categories, or use a template source"});
  }
  check_ids(plan);
  plan.taper_from = taper_start(plan.size(), static_cast<std::size_t>(plan.shard_items));
  plan.cut_shards();
  return plan;
}

void write_plan(const Plan& plan, const Path& file) {
  store::Table table(kFormat, kVersion);
  table.add("item_id", plan.item_id);
  table.add("seed", plan.seed);
  table.add("generator", plan.generator);
  table.add("category", plan.category);
  table.add("prompt", plan.prompt);
  table.add("sample", plan.sample);
  nlohmann::json categories = nlohmann::json::array();
  for (const auto& c : plan.categories)
    categories.push_back({{"id", c.id}, {"name", c.name}, {"frequency", c.frequency}, {"is_extra", c.is_extra}});
  table.documents["categories"] = categories.dump();
  table.documents["prompts"] = nlohmann::json(plan.prompts).dump();
  table.documents["generators"] = nlohmann::json(plan.generators).dump();
  table.attributes["shard_items"] = std::to_string(plan.shard_items);
  if (plan.taper_from != Plan::kNoTaper) table.attributes["taper_from"] = std::to_string(plan.taper_from);
  store::write_table(table, file);
}

Plan read_plan(const Path& file) {
  const store::Table table = store::read_table(file);
  if (table.format() != kFormat || table.version() != kVersion)
    fail(ErrorKind::Data,
         {"not a plan that this version reads", file.string(),
          cat("it is '", table.format(), "' version ", table.version()), "plan again in a new run folder"});
  Plan plan;
  plan.item_id = table.get<std::uint64_t>("item_id");
  plan.seed = table.get<std::uint64_t>("seed");
  plan.generator = table.get<std::int32_t>("generator");
  plan.category = table.get<std::int32_t>("category");
  plan.prompt = table.get<std::int32_t>("prompt");
  plan.sample = table.get<std::int32_t>("sample");
  for (const auto& c : nlohmann::json::parse(table.documents.at("categories")))
    plan.categories.push_back({c.at("id"), c.at("name"), c.at("frequency"), c.at("is_extra"), {}});
  plan.prompts = nlohmann::json::parse(table.documents.at("prompts")).get<std::vector<std::string>>();
  plan.generators = nlohmann::json::parse(table.documents.at("generators")).get<std::vector<std::string>>();
  plan.shard_items = std::stoi(table.attributes.at("shard_items"));
  if (const auto taper = table.attributes.find("taper_from"); taper != table.attributes.end())
    plan.taper_from = std::stoll(taper->second);
  plan.cut_shards();
  return plan;
}

}  // namespace divergen::stages
