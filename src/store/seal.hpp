#pragma once
// The last 32 bytes of every table file: "DIVGSEAL", the number of bytes before the seal, and their XXH3 (128 bits, low
// half first), all little-endian. HDF5 ignores what follows its own end of file.
//
// The seal covers what HDF5's checksums leave out (headers, trees, padding), so that a damaged file is refused before
// HDF5 parses it, and it is missing from every file that was cut off.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "base/fs.hpp"

namespace divergen::store {

inline constexpr std::size_t kSealBytes = 32;

/// Is shown the bytes of a file piece by piece, in order; `at`: where in the file the piece begins.
using SeePiece = std::function<void(std::uint64_t at, std::string_view piece)>;

/// Appends the seal to a finished file, for which all of it is read once; `see` looks on. Throws Error(Io | NoSpace).
void append_seal(const Path& file, const SeePiece& see = {});
/// Checks the seal against the whole file: one pass over its bytes. Throws Error(Data | Io).
void check_seal(const Path& file);
/// Checks only that the file has as many bytes as its seal says. Throws Error(Data | Io).
void check_seal_size(const Path& file);

}  // namespace divergen::store
