#include "base/hash.hpp"

#include <cerrno>
#include <cstdio>
#include <memory>
#include <vector>

#include <xxhash.h>

#include "base/error.hpp"

namespace divergen {

std::uint64_t hash64(std::string_view bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

Hash128 hash128(std::string_view bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return {h.low64, h.high64};
}

std::string to_hex(std::uint64_t value) {
  char out[17];
  std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(value));
  return out;
}

std::string to_hex(const Hash128& value) { return to_hex(value.high) + to_hex(value.low); }

Hash128 hash_file(const std::filesystem::path& path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) fail_errno("cannot open", path.string(), errno);
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_128bits_reset(state.get());
  std::vector<char> buffer(1 << 20);
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), file.get()))
    XXH3_128bits_update(state.get(), buffer.data(), n);
  if (std::ferror(file.get()) != 0) fail_errno("cannot read", path.string(), errno);
  const XXH128_hash_t h = XXH3_128bits_digest(state.get());
  return {h.low64, h.high64};
}

}  // namespace divergen
