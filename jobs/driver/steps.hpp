#pragma once
// The stages of a configuration in their order, and the files that they will open.

#include <string>
#include <vector>

#include "config/settings.hpp"

namespace divergen::driver {

/// One launch of the worker: a stage, for train and evaluate of one training.
struct Step {
  std::string stage, training;
  std::string label() const { return training.empty() ? stage : stage + "." + training; }
};

/// Every stage that has to do with the library and can be launched by its name.
extern const std::vector<std::string> kLibraryStages;
/// Those that make a configuration's library, in their order: one by one or fused (run.fused), and retries where they
/// are asked for (plan.retry_rejected).
std::vector<std::string> library_stages(const config::RunConfig& config);
/// Whether some training pastes instances (or there is no training: then the library is what is wanted).
bool needs_library(const config::RunConfig& config);

/// The launches of `stage`, or of all stages for "run"; of one training only when it is named. Throws Error(Usage) for
/// a training that the configuration does not have.
std::vector<Step> steps_of(const config::RunConfig& config, const std::string& stage, const std::string& training);

/// Every file that the steps will open, so that a missing one is named now and not after hours of other stages. Throws
/// Error(Io).
void check_inputs(const config::RunConfig& config, const std::vector<Step>& steps);

}  // namespace divergen::driver
