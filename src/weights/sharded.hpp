#pragma once
// A model in several files under an index: {"metadata": {...}, "weight_map": {"tensor": "file", ...}}.

#include <memory>

#include "weights/weights.hpp"

namespace divergen::weights {

/// Opens the index and all its shards, which lie beside it. Refuses names that leave the folder, shards that are
/// missing, lack a tensor or have one that the index does not give them. Throws Error(Io | Data).
std::unique_ptr<WeightSource> open_sharded(const Path& index);

}  // namespace divergen::weights
