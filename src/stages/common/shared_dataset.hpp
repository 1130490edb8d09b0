#pragma once
// Annotation files that all ranks need: read once a node.

#include "comm/world.hpp"
#include "lvis/dataset.hpp"

namespace divergen::stages {

/// Collective. The first rank of each node reads the file, with the threads of all its ranks, and the others of the
/// node see the same memory. Throws what read_dataset throws, on all ranks alike.
lvis::Dataset read_shared_dataset(comm::World& world, const Path& file);

}  // namespace divergen::stages
