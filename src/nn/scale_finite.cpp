#include "nn/scale_finite.hpp"

#include <bit>
#include <cstdint>

namespace divergen::nn {

bool scale_finite(float* values, std::size_t count, float factor) {
  constexpr std::uint32_t kExponent = 0x7f800000;  // all of its bits are set in infinities and NaN alone
  std::uint32_t bad = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(values[i]);
    bad |= (bits & kExponent) == kExponent ? 1U : 0U;
    values[i] *= factor;
  }
  return bad == 0;
}

}  // namespace divergen::nn
