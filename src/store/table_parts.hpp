#pragma once
// What the .cpp files of tables share.

#include "store/table.hpp"

namespace divergen::store {

/// read_table() without a look at the seal: for a file whose seal was just made of it, or whose rows are to be named.
/// `row_hashes`: gets the rows' hashes, when asked for.
Table read_unsealed_table(const Path& path, std::vector<std::uint64_t>* row_hashes = nullptr);

}  // namespace divergen::store
