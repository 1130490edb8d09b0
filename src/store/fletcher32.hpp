#pragma once
// HDF5's checksum of a chunk (its filter "fletcher32"), with vector instructions: HDF5's own takes most of the time of
// writing a shard.

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace divergen::store {

/// Over big-endian 16-bit words, an odd last byte taken as the high one, sums folded modulo 65535 so that only a sum of
/// nothing but zeros is 0 (HDF5 1.10, H5checksum.c). HDF5 stores it little-endian after the chunk.
std::uint32_t fletcher32(std::string_view bytes);
inline constexpr std::size_t kFletcher32Bytes = 4;  // behind each chunk

}  // namespace divergen::store
