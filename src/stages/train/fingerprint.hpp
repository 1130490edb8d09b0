#pragma once
// What a training's result depends on, as one hash.

#include <string>

#include "config/settings.hpp"
#include "stages/common/context.hpp"

namespace divergen::stages {

/// Collective. Settings that decide the result, the contents of the data, area statistics and weight files, and the
/// hash of the instance library ("no pool" without one). Throws Error(Io) when a named file is missing.
std::string training_fingerprint(const RunContext& context, const config::TrainSettings& training,
                                 const std::string& library_hash);

/// Collective: whether the stage's record stands with this fingerprint, and `result` beside it. A damaged record counts
/// as none, with a warning; one that does not hold is removed.
bool is_complete(const RunContext& context, const std::string& stage, const std::string& fingerprint,
                 const Path& result);

/// Collective: hash of a file, read by rank 0 alone; "" for an empty path.
std::string shared_file_hash(comm::World& world, const Path& file);

}  // namespace divergen::stages
