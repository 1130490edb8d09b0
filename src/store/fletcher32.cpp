#include "store/fletcher32.hpp"

#include <array>
#include <cstddef>
#include <cstring>

namespace divergen::store {
namespace {

constexpr std::size_t kBlock = 64;  // words: their weighted sum stays below 2^32

constexpr std::array<std::uint32_t, kBlock> kWeights = [] {
  std::array<std::uint32_t, kBlock> weights{};
  for (std::size_t i = 0; i < kBlock; ++i) weights[i] = static_cast<std::uint32_t>(kBlock - i);
  return weights;
}();

/// x modulo 65535, but 65535 instead of 0 for every x > 0, as folding the carries does.
std::uint64_t fold(std::uint64_t x) { return x == 0 ? 0 : (x - 1) % 65535 + 1; }

std::uint16_t big_endian(std::uint16_t word) { return static_cast<std::uint16_t>(word << 8 | word >> 8); }

}  // namespace

std::uint32_t fletcher32(std::string_view bytes) {
  // With s(n) the sum of the first n words, the checksum is s(N) and s(1) + ... + s(N): a block of words w adds
  // block * s + sum of (block - i) w(i) to the second.
  std::uint64_t first = 0, second = 0;
  const char* from = bytes.data();
  std::size_t words = bytes.size() / 2;
  for (std::size_t blocks = 0; words >= kBlock; words -= kBlock, from += 2 * kBlock) {
    std::uint16_t raw[kBlock];
    std::memcpy(raw, from, sizeof raw);
    std::uint32_t sum = 0, weighted = 0;
    for (std::size_t i = 0; i < kBlock; ++i) {
      const std::uint32_t word = big_endian(raw[i]);
      sum += word;
      weighted += word * kWeights[i];
    }
    second += kBlock * first + weighted;
    first += sum;
    if (++blocks % 1024 == 0) {  // long before 64 bits are too few
      first = fold(first);
      second = fold(second);
    }
  }
  for (; words > 0; --words, from += 2) {
    std::uint16_t raw = 0;
    std::memcpy(&raw, from, sizeof raw);
    first += big_endian(raw);
    second += first;
  }
  if (bytes.size() % 2 != 0) {
    first += static_cast<std::uint64_t>(static_cast<unsigned char>(*from)) << 8;
    second += first;
  }
  return static_cast<std::uint32_t>(fold(second) << 16 | fold(first));
}

}  // namespace divergen::store
