#pragma once
// Runs the detector over the images that are left, shared dynamically over the ranks.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lvis/dataset.hpp"
#include "models/detector/centernet2.hpp"
#include "stages/augment/types.hpp"
#include "stages/common/context.hpp"
#include "stages/common/rank_phases.hpp"
#include "stages/evaluate/detections.hpp"
#include "stages/evaluate/parts.hpp"

namespace divergen::stages {

/// The trained detector with its evaluated classes only: the rows of extra categories are cut from the classifiers as
/// the reference's convert tool does (reference/semantics.md §8.8). Sigmoid scores do not depend on other classes, so
/// that this drops detections of extra categories before the cut to 300 an image. Throws Error(Data | Io).
std::unique_ptr<models::CenterNet2> load_evaluated_detector(const config::DetectorSettings& settings,
                                                            const ClassMap& classes, const Path& model);

/// An image as the detector takes it, or the reason why there is none.
struct LoadedImage {
  at::Tensor pixels;   // [3, h, w] uint8
  std::string reason;  // "unreadable_image", "wrong_size"; empty when it is whole
};
/// Decodes (EXIF rotation applied) and resizes as in evaluation. Logs what is wrong.
LoadedImage load_image(const lvis::ImageRecord& record, const Path& folder, const config::EvaluateSettings& settings);

struct RunnerInput {
  const lvis::Dataset& dataset;
  const ClassMap& classes;
  std::vector<std::vector<std::size_t>> batches;  // those that are left, the same on all ranks
  Path parts;                                     // folder of the part files
  std::string fingerprint;
  std::string name;  // of the stage, for messages
};

/// A rank's share, and where its time went.
struct RunnerShare {
  RankShare share;
  RankPhases phases;
};

/// Collective. Claims batches and commits their detections in parts. Returns this rank's share when all are committed.
/// On a stop or an error of some rank, all ranks commit what they have and throw: Error(Stopped), or that error.
RunnerShare run_detector(const RunContext& context, const models::CenterNet2& detector, at::Device device,
                         const RunnerInput& input);

}  // namespace divergen::stages
