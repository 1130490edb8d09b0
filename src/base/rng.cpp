#include "base/rng.hpp"

#include <cmath>
#include <cstring>
#include <numbers>
#include <string>

#include "base/error.hpp"
#include "base/hash.hpp"

namespace divergen {
namespace {

// Constants of Philox4x32 from the paper's reference code (Random123).
constexpr std::uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

std::array<std::uint32_t, 4> philox10(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{kMultiplier0} * c[0];
    const std::uint64_t p1 = std::uint64_t{kMultiplier1} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += kWeyl0;
    k[1] += kWeyl1;
  }
  return c;
}

}  // namespace

std::uint64_t derive_seed(std::uint64_t seed, std::string_view purpose) { return hash64(purpose, seed); }

std::uint64_t derive_seed(std::uint64_t seed, std::string_view purpose, std::initializer_list<std::uint64_t> indices) {
  std::string bytes(purpose);
  for (const std::uint64_t index : indices) {
    char raw[sizeof index];
    std::memcpy(raw, &index, sizeof index);
    bytes.append(1, '\0').append(raw, sizeof raw);
  }
  return hash64(bytes, seed);
}

std::uint32_t Rng::next() {
  if (used_ == 4) {
    block_ = philox10(counter_, key_);
    used_ = 0;
    for (auto& word : counter_)
      if (++word != 0) break;
  }
  return block_[used_++];
}

std::uint64_t Rng::next64() {
  const std::uint64_t high = next();
  return high << 32 | next();
}

double Rng::uniform() { return static_cast<double>(next64() >> 11) * 0x1p-53; }
double Rng::uniform(double low, double high) { return low + (high - low) * uniform(); }

double Rng::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
  const double angle = 2.0 * std::numbers::pi * uniform();
  spare_normal_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

std::uint64_t Rng::below(std::uint64_t bound) {
  DIVERGEN_CHECK(bound > 0);
  const std::uint64_t limit = -bound % bound;  // numbers under this would make small results likelier
  std::uint64_t value;
  do value = next64();
  while (value < limit);
  return value % bound;
}

std::int64_t Rng::range(std::int64_t low, std::int64_t high) {
  DIVERGEN_CHECK(high > low, low, " .. ", high);
  return low + static_cast<std::int64_t>(below(static_cast<std::uint64_t>(high - low)));
}

}  // namespace divergen
