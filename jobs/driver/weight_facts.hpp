#pragma once
// What `divergen inspect` shows of weights.

#include <string>

#include "base/fs.hpp"

namespace divergen::driver {

/// Whether the path is for inspect_weights: a file, or a folder that holds weights and is no library or run.
bool is_weights(const Path& path);

/// Prints format, tensors, types, sizes and hash; every name with `keys`; one JSON object with `json`. Returns the exit
/// code. Throws Error(Io | Data).
int inspect_weights(const Path& path, const std::string& prefix, bool keys, bool json);

}  // namespace divergen::driver
