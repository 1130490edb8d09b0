#include "driver/steps.hpp"

#include <algorithm>
#include <filesystem>

#include "base/error.hpp"

namespace divergen::driver {

const std::vector<std::string> kLibraryStages{"plan", "generate", "annotate", "fused", "filter", "pool", "retry"};

std::vector<std::string> library_stages(const config::RunConfig& config) {
  std::vector<std::string> stages{"plan", "generate", "annotate", "filter", "pool"};
  if (config.run.fused) stages = {"plan", "fused"};
  if (config.plan.retry_rejected > 0) stages.push_back("retry");
  return stages;
}

bool needs_library(const config::RunConfig& config) {
  for (const auto& training : config.trainings)
    if (training.use_pool) return true;
  return config.trainings.empty();
}

std::vector<Step> steps_of(const config::RunConfig& config, const std::string& stage, const std::string& training) {
  std::vector<Step> steps;
  const bool all = stage == "run";
  if (all && needs_library(config))
    for (const std::string& name : library_stages(config)) steps.push_back({name, ""});
  if (std::find(kLibraryStages.begin(), kLibraryStages.end(), stage) != kLibraryStages.end())
    steps.push_back({stage, ""});
  if (all || stage == "train" || stage == "evaluate") {
    for (const auto& t : config.trainings) {
      if (!training.empty() && t.name != training) continue;
      if (all || stage == "train") steps.push_back({"train", t.name});
      if (all || stage == "evaluate") steps.push_back({"evaluate", t.name});
    }
    if (!training.empty() && steps.empty())
      fail(ErrorKind::Usage, {"there is no such training", training, "the configuration does not name it",
                              "use a name of its [[trainings]]"});
  }
  return steps;
}

/// Every file that the steps will open, so that a missing one is named now and not after hours of other stages.
void check_inputs(const config::RunConfig& config, const std::vector<Step>& steps) {
  const auto need = [](const Path& path, const std::string& key) {
    if (path.empty() || std::filesystem::exists(path)) return;
    fail(ErrorKind::Io, {"an input of the run is missing", path.string(),
                         cat("there is no such file; the configuration names it as ", key),
                         "correct the path, or put the file there"});
  };
  const auto has = [&](const std::string& stage) {
    const bool is_passed = stage == "generate" || stage == "annotate" || stage == "filter";  // by these on their way:
    return std::any_of(steps.begin(), steps.end(), [&](const Step& step) {
      return step.stage == stage || (is_passed && (step.stage == "fused" || step.stage == "retry"));
    });
  };
  if (has("plan") || has("train")) need(config.data.categories, "data.categories");
  if (has("plan"))
    for (const auto& prompts : config.prompts) need(prompts.folder, cat("prompts.", prompts.name, ".folder"));
  if (has("generate"))
    for (const auto& generator : config.generators)
      need(generator.weights, cat("generators.", generator.name, ".weights"));
  if (has("annotate"))
    for (const auto& annotator : config.used_annotators()) {
      const std::string key = annotator.name.empty() ? "annotator." : cat("annotators.", annotator.name, ".");
      need(annotator.weights, key + "weights");
      need(annotator.clip, key + "clip");
      need(annotator.matting, key + "matting");
      need(annotator.tokenizer, key + "tokenizer");
    }
  if (has("annotate")) need(config.annotator.choose_by, "annotator.choose_by");
  if (has("filter")) need(config.filter.clip, "filter.clip");
  if (has("filter") || has("train")) {
    need(config.data.train_json, "data.train_json");
    need(config.data.train_images, "data.train_images");
  }
  if (has("train")) {
    need(config.data.area_stats, "data.area_stats");
    need(config.detector.backbone_weights, "detector.backbone_weights");
    for (const auto& training : config.trainings)
      need(training.init, cat("init of the training '", training.name, "'"));
  }
  if (has("evaluate")) {
    need(config.data.val_json, "data.val_json");
    need(config.data.val_images, "data.val_images");
  }
}

}  // namespace divergen::driver
