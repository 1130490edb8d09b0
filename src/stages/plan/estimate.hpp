#pragma once
// What a plan will cost before it is started: items, files, bytes, GPU memory and hours. Estimates, and labelled so:
// from published speeds of the full-size models on one A100, or from what this run directory has measured already.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "stages/common/run_directory.hpp"
#include "stages/plan/plan.hpp"

namespace divergen::stages {

struct StageEstimate {
  std::string stage;  // "generate", or of one generator "generate.sd"
  std::int64_t items = 0;
  std::int64_t files = 0;
  double bytes = 0;
  double device_hours = 0;      // of one device, all items
  double device_gigabytes = 0;  // memory of one device
  std::string basis;            // where speed and size come from, for people
};

struct PlanEstimate {
  std::int64_t items = 0, shards = 0, categories = 0, prompts = 0;
  std::map<std::string, std::int64_t> items_of_group;  // "rare", "common", "frequent", "extra", "other"
  std::int64_t categories_without_items = 0;
  std::vector<StageEstimate> stages;
};

PlanEstimate estimate_plan(const config::RunConfig& config, const Plan& plan);

/// A table for people, ending with a newline.
std::string to_text(const PlanEstimate& estimate);
/// JSON text.
std::string to_json(const PlanEstimate& estimate);

}  // namespace divergen::stages
