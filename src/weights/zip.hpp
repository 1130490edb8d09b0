#pragma once
// The directory of a zip file, as far as PyTorch's checkpoints use the format: entries that lie uncompressed in it.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace divergen::weights {

struct ZipEntry {
  std::string_view name;                // a view into the bytes
  std::uint64_t begin = 0, length = 0;  // as stored
  bool is_stored = true;                // false: compressed; such an entry is listed and must not be read
};

/// Lists the entries and refuses what honest writers do not make: names that leave the archive, doubles, entries beyond
/// the file or over each other, encryption, several disks, two headers that contradict each other (zip64 included).
/// Throws Error(Data) naming `file` and the entry. Nothing is ever extracted. Format: PKWARE APPNOTE 6.3.
std::vector<ZipEntry> read_zip(std::span<const std::byte> bytes, const std::string& file);

/// Whether the bytes begin as a zip file does.
bool is_zip(std::span<const std::byte> bytes);

}  // namespace divergen::weights
