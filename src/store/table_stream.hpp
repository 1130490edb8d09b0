#pragma once
// Tables whose heap does not fit in memory.

#include <functional>
#include <string_view>

#include "store/table.hpp"

namespace divergen::store {

/// write_table() of `columns`, which has no heap, with a heap that is asked for row by row: `entry(row)` gives
/// lengths[row] bytes, which stand until the next call, and is called once for its hash and once for writing it. At no
/// time is more than a row and a chunk in memory.
void write_streamed_table(const Table& columns, const std::vector<std::uint64_t>& lengths,
                          const std::function<std::string_view(std::size_t row)>& entry, const Path& path);

}  // namespace divergen::store
