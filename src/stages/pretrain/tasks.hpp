#pragma once
// From a configuration file to a trained miniature model.

#include "config/reader.hpp"
#include "stages/pretrain/trainer.hpp"

namespace divergen::stages {

/// Reads the file (with overrides), makes its task, trains it into `out`. Throws Error.
PretrainResult run_pretrain(const Path& config, const std::vector<std::string>& overrides, const Path& world,
                            const Path& out, const std::function<bool()>& stop);

}  // namespace divergen::stages
