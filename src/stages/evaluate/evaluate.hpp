#pragma once
// The evaluate stage: a trained detector on the validation images, and LVIS average precision.
//
//   evaluate/<name>/results.bbox.json, results.segm.json   detections, as lvis-api reads them
//                   metrics.json                           results.hpp
//                   pictures/                              ground truth and detections of some images
//                   tensorboard/                           the same pictures, and the numbers
//                   parts/                                 detections.hpp; only while it is not complete
//   stages/evaluate.<name>.json                            StageRecord

#include "stages/common/context.hpp"

namespace divergen::stages {

/// Collective. Does nothing when the record with the same fingerprint and the metrics stand; else detects what is not
/// yet detected. The numbers do not depend on the number of ranks. Throws Error(Stopped) when it stopped early,
/// Error(Data) when the training has no model yet, Error(Io | NoSpace) otherwise.
void run_evaluate(const RunContext& context, const config::TrainSettings& training);

}  // namespace divergen::stages
