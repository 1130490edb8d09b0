#include "stages/plan/plan_input.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/log.hpp"
#include "stages/plan/categories.hpp"

namespace divergen::stages {
namespace {

bool is_wanted(const CategoryInfo& category, const config::PlanSettings& settings) {
  if (category.is_extra) return settings.extra_categories;
  const auto& groups = settings.frequencies;
  return groups.empty() || std::find(groups.begin(), groups.end(), category.frequency) != groups.end();
}

void check_folders(const config::RunConfig& config) {
  for (const auto& source : config.prompts)
    if (source.kind == "folder" && !std::filesystem::is_directory(source.folder))
      fail(ErrorKind::Io, {"a folder of prompts is missing", source.folder.string(), "there is no such folder",
                           cat("correct prompts.", source.name, ".folder, or unpack the prompts there")});
}

std::vector<std::string> prompts_of(const CategoryInfo& category, const config::PromptSettings& source) {
  std::vector<std::string> prompts = source.kind == "folder"
                                         ? read_prompts(source.folder, category.id)
                                         : std::vector{template_prompt(category.name, category.definition)};
  if (source.limit > 0 && prompts.size() > static_cast<std::size_t>(source.limit))
    prompts.resize(static_cast<std::size_t>(source.limit));
  return prompts;
}

}  // namespace

PlanInput plan_input(const config::RunConfig& config) {
  const Path& file = config.data.categories;
  if (file.empty())
    fail(ErrorKind::Config, {"no category file is named", "data.categories", "it is missing",
                             "add categories = \"<file>.json\" under [data]"});
  check_folders(config);
  PlanInput input;
  input.seed = config.seed;
  input.shard_items = static_cast<std::int32_t>(config.plan.shard_items);
  for (const auto& generator : config.generators)
    input.generators.push_back(
        {generator.name, static_cast<std::int32_t>(generator.samples_per_prompt), generator.prompts});

  std::size_t without_prompt = 0;
  for (const CategoryInfo& info : read_categories(file)) {
    if (!is_wanted(info, config.plan)) continue;
    PlanCategory category{info.id, info.name, info.frequency, info.is_extra, {}};
    for (const auto& source : config.prompts)
      if (auto prompts = prompts_of(info, source); !prompts.empty())
        category.prompts.emplace(source.name, std::move(prompts));
    without_prompt += category.prompts.empty() ? 1 : 0;
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
