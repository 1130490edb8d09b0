#pragma once
// What the targets of weight files share: bytes are either a source whose every tensor can be read, or refused.

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.hpp"
#include "weights/weights.hpp"

namespace divergen::test {

/// Opens the bytes under `name` and reads all tensors: whatever passed the checks must be readable within bounds.
inline int fuzz_weights(const std::uint8_t* data, std::size_t size, const char* name) {
  try {
    const auto source = weights::open_weights(std::as_bytes(std::span(data, size)), name);
    std::uint64_t total = 0;
    for (const auto& weight : source->tensors())
      weights::stream(*source, weight, weight.dtype, [&](std::span<const std::byte> piece) {
        for (const std::byte value : piece) total += static_cast<std::uint64_t>(value);
      });
    if (total == UINT64_MAX) __builtin_trap();  // keeps the reads
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data) __builtin_trap();
  }
  return 0;
}

}  // namespace divergen::test
