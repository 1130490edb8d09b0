#pragma once
// What stands behind HDF5's own end of every table file, all little-endian; HDF5 ignores it.
//
//   the map     of each span of bytes that belongs to the heap: where it begins and its length, 8 bytes each
//   the frame   "DIVGFRAM", the number of spans, and the XXH3 (128 bits, low half first) of all that is not heap: the
//               bytes before the map outside of its spans, then the map, then their number
//   the seal    32 bytes: "DIVGSEA2", the number of bytes before the seal, and their XXH3
//
// The seal covers what HDF5's checksums leave out (headers, trees, padding), so that a damaged file is refused before
// HDF5 parses it, and it is missing from every file that was cut off. The frame is for those who read single rows of a
// large file: HDF5 1.10 crashes in damaged structures, and the rows have hashes of their own. Files of earlier versions
// end with "DIVGSEAL" and have no map and no frame.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "base/fs.hpp"

namespace divergen::store {

inline constexpr std::size_t kSealBytes = 32;

/// Is shown the bytes of a file piece by piece, in order; `at`: where in the file the piece begins.
using SeePiece = std::function<void(std::uint64_t at, std::string_view piece)>;

/// A span of bytes of a file.
struct Span {
  std::uint64_t begin = 0, length = 0;
};

/// Appends map, frame and seal to a finished file, for which all of it is read once; `see` looks on. `heap`: the spans
/// of the heap, disjoint. Throws Error(Io | NoSpace).
void append_seal(const Path& file, std::vector<Span> heap = {}, const SeePiece& see = {});
/// Checks the seal against the whole file: one pass over its bytes. Throws Error(Data | Io).
void check_seal(const Path& file);
/// Checks that the file has as many bytes as its seal says, and all but its heap against its frame: one pass over
/// columns, documents and HDF5's structures. Of a file of an earlier version only the size. Throws Error(Data | Io).
void check_frame(const Path& file);

}  // namespace divergen::store
