#include "stages/plan/plan_input.hpp"

#include <algorithm>
#include <charconv>
#include <map>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/log.hpp"
#include "stages/plan/categories.hpp"
#include "stages/plan/prompts.hpp"

namespace divergen::stages {
namespace {

bool is_wanted(const CategoryInfo& category, const config::PlanSettings& settings) {
  if (category.is_extra) return settings.extra_categories;
  const auto& groups = settings.frequencies;
  return groups.empty() || std::find(groups.begin(), groups.end(), category.frequency) != groups.end();
}

/// Items of a category: its group's, unless the quota file names the category.
class Quotas {
 public:
  explicit Quotas(const config::QuotaSettings& settings) : settings_(settings) {
    if (!settings.file.empty()) read(settings.file);
  }

  std::int64_t of(const CategoryInfo& category) const {
    if (const auto found = own_.find(category.id); found != own_.end()) return found->second;
    if (category.is_extra) return settings_.extra;
    if (category.frequency == "r") return settings_.rare;
    if (category.frequency == "c") return settings_.common;
    return category.frequency == "f" ? settings_.frequent : 0;
  }

 private:
  void read(const Path& file) {
    const auto refuse = [&](const std::string& object, const char* why) {
      fail(ErrorKind::Data,
           {"the file of quotas cannot be used", object, why, R"(write {"<category id>": items, ...})"});
    };
    const auto json = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) refuse(file.string(), "it is no JSON object");
    for (const auto& [key, value] : json.items()) {
      std::int32_t id = -1;
      const auto [end, problem] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (problem != std::errc{} || end != key.data() + key.size() || id < 0)
        refuse(cat(file.string(), ", key '", key, "'"), "it is no category id");
      if (!value.is_number_unsigned()) refuse(cat(file.string(), ", key '", key, "'"), "its value is no whole number");
      own_[id] = value.get<std::int64_t>();
    }
  }

  const config::QuotaSettings& settings_;
  std::map<std::int32_t, std::int64_t> own_;
};

}  // namespace

PlanInput plan_input(const config::RunConfig& config) {
  const Path& file = config.data.categories;
  if (file.empty())
    fail(ErrorKind::Config, {"no category file is named", "data.categories", "it is missing",
                             "add categories = \"<file>.json\" under [data]"});
  std::vector<PromptSource> sources(config.prompts.begin(), config.prompts.end());
  const Quotas quotas(config.plan.quota);
  PlanInput input;
  input.seed = config.seed;
  input.shard_items = static_cast<std::int32_t>(config.plan.shard_items);
  for (const auto& generator : config.generators)
    input.generators.push_back(
        {generator.name, static_cast<std::int32_t>(generator.samples_per_prompt), generator.prompts, {}});
  std::vector<std::optional<Quotas>> own;  // of each generator that has some
  for (const auto& generator : config.generators)
    generator.quota ? own.emplace_back(*generator.quota) : own.emplace_back();

  std::size_t without_prompt = 0;
  for (const CategoryInfo& info : read_categories(file)) {
    if (!is_wanted(info, config.plan)) continue;
    PlanCategory category{info.id, info.name, info.frequency, info.is_extra, {}, quotas.of(info)};
    for (const auto& source : sources)
      if (auto prompts = source.prompts_of(info); !prompts.empty())
        category.prompts.emplace(source.settings().name, std::move(prompts));
    without_prompt += category.prompts.empty() ? 1 : 0;
    for (std::size_t g = 0; g < own.size(); ++g)
      if (own[g]) input.generators[g].quotas.push_back(own[g]->of(info));
    input.categories.push_back(std::move(category));
  }
  if (input.categories.empty())
    fail(ErrorKind::Config, {"no category is left to plan", file.string(),
                             "plan.frequencies and plan.extra_categories leave out all of them", "relax one of them"});
  if (without_prompt > 0)
    log::warn("plan: ", without_prompt, " of ", input.categories.size(),
              " categories have no prompt in any source; nothing is made for them");
  return input;
}

}  // namespace divergen::stages
