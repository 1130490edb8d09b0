#pragma once
// XXH3: fast, not cryptographic. 64 bits for records and checks, 128 bits for names of contents.

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace divergen {

std::uint64_t hash64(std::string_view bytes, std::uint64_t seed = 0);

struct Hash128 {
  std::uint64_t low = 0, high = 0;
  bool operator==(const Hash128&) const = default;
};
Hash128 hash128(std::string_view bytes);
std::string to_hex(std::uint64_t value);   // 16 lower-case digits
std::string to_hex(const Hash128& value);  // 32 lower-case digits

/// Hash of a file's contents, read in pieces (constant memory).
Hash128 hash_file(const std::filesystem::path& path);

}  // namespace divergen
