#pragma once
// Work on files in which the libraries that parse them may crash, in a process of its own.

#include <functional>
#include <optional>
#include <string>

#include "base/fs.hpp"

namespace divergen::store {

/// Runs `work` in a copy of this process and gives the text that it returned; nothing when the copy crashed, or asked
/// for more memory than is sensible for `file`. An Error that it throws is thrown here. The copy has this thread alone:
/// `work` must not wait for others, and must not use MPI. Throws Error(Io) when there can be no other process.
std::optional<std::string> run_apart(const Path& file, const std::function<std::string()>& work);

}  // namespace divergen::store
