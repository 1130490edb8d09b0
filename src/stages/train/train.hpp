#pragma once
// The train stage: the detector on the data set, with or without generated instances.
//
//   train/<name>/log.jsonl              one line every log_every steps (training_log.hpp)
//                checkpoints/           checkpoint.hpp
//                samples/               pictures of the first samples
//                tensorboard/           event files
//                model.safetensors      the result: averaged weights where ema > 0, float32
//                last.safetensors       the weights themselves where ema > 0
//   stages/train.<name>.json            StageRecord

#include "stages/common/context.hpp"

namespace divergen::stages {

/// Collective. Does nothing when the record with the same fingerprint and the model stand; else trains from the newest
/// checkpoint. Throws Error(Stopped) when it stopped early, Error(Config | Data | Io | NoSpace) otherwise.
void run_train(const RunContext& context, const config::TrainSettings& training);

/// Files of the result.
Path trained_model(const RunDirectory& dir, const std::string& name, bool averaged);

}  // namespace divergen::stages
