#pragma once
// From a configuration to what the plan is made of: categories and the prompts of every source.

#include "config/settings.hpp"
#include "stages/plan/plan.hpp"

namespace divergen::stages {

/// Reads the category file and the prompt folders. Evaluated categories are those of plan.frequencies, in file order.
/// A category without a file in a prompt folder has no prompts of that source. Throws Error(Config) when a file or
/// folder is not named or no category is left, Error(Io | Data) when one cannot be read.
PlanInput plan_input(const config::RunConfig& config);

}  // namespace divergen::stages
