#pragma once
// A data set as one block of bytes, to lie in memory that several processes see.

#include <cstddef>
#include <memory>
#include <span>

#include "lvis/dataset.hpp"

namespace divergen::lvis {

/// Bytes that write_block needs.
std::size_t block_bytes(const Dataset& dataset);
/// Moves the columns into `to`, each freed when it has been copied, so that the peak is the data set and its largest
/// column.
void write_block(Dataset dataset, std::span<std::byte> to);
/// A data set whose columns lie in `from`, which `keep` keeps alive: it costs the indices of ids and nothing else.
/// Nothing can be added to its columns.
Dataset read_block(std::span<const std::byte> from, std::shared_ptr<const void> keep);

}  // namespace divergen::lvis
