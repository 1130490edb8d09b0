#include "weights/dtype.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "base/error.hpp"

namespace divergen::weights {
namespace {

struct TypeName {
  std::string_view name;
  std::size_t size;
};
// In the order of the enumeration.
constexpr std::array<TypeName, 15> kTypes{{{"F64", 8},
                                           {"F32", 4},
                                           {"F16", 2},
                                           {"BF16", 2},
                                           {"I64", 8},
                                           {"I32", 4},
                                           {"I16", 2},
                                           {"I8", 1},
                                           {"U8", 1},
                                           {"BOOL", 1},
                                           {"U16", 2},
                                           {"U32", 4},
                                           {"U64", 8},
                                           {"F8_E4M3", 1},
                                           {"F8_E5M2", 1}}};

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
template <class To, class From>
To bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu, mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return bits<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return bits<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // subnormal: exact in float
  return sign != 0 ? -magnitude : magnitude;
}

std::uint16_t float_to_half(float value) {
  const auto raw = bits<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((raw >> 16) & 0x8000u);
  const std::uint32_t magnitude = raw & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or beyond
  if (magnitude < 0x38800000u) {
    // Subnormal or zero: adding 0.5 shifts the mantissa so that the adder rounds at the half's last place.
    const float shifted = bits<float>(magnitude) + 0.5f;
    return sign | static_cast<std::uint16_t>(bits<std::uint32_t>(shifted) - bits<std::uint32_t>(0.5f));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<std::uint16_t>((rounded - (112u << 23)) >> 13);
}

std::uint16_t float_to_bfloat(float value) {
  const auto raw = bits<std::uint32_t>(value);
  if ((raw & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return static_cast<std::uint16_t>((raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16);
}

void to_floats(DType from, const std::byte* in, float* out, std::size_t count) {
  std::size_t i = 0;
  switch (from) {
    case DType::F64:
      for (; i < count; ++i) out[i] = static_cast<float>(load<double>(in + 8 * i));
      return;
    case DType::F32:
      std::memcpy(out, in, 4 * count);
      return;
    case DType::F16:
#if defined(__F16C__)
      for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * i))));
#endif
      for (; i < count; ++i) out[i] = half_to_float(load<std::uint16_t>(in + 2 * i));
      return;
    default:
      for (; i < count; ++i) out[i] = bits<float>(static_cast<std::uint32_t>(load<std::uint16_t>(in + 2 * i)) << 16);
  }
}

template <class T>
void store(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

void from_floats(const float* in, DType to, std::byte* out, std::size_t count) {
  std::size_t i = 0;
  switch (to) {
    case DType::F64:
      for (; i < count; ++i) store(out + 8 * i, static_cast<double>(in[i]));
      return;
    case DType::F32:
      std::memcpy(out, in, 4 * count);
      return;
    case DType::F16:
#if defined(__F16C__)
      for (; i + 8 <= count; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#endif
      for (; i < count; ++i) store(out + 2 * i, float_to_half(in[i]));
      return;
    default:
      for (; i < count; ++i) store(out + 2 * i, float_to_bfloat(in[i]));
  }
}

/// A number is not finite where all bits of its exponent are set.
template <class Word>
std::optional<std::uint64_t> first_with_exponent(std::span<const std::byte> bytes, Word exponent) {
  const std::size_t count = bytes.size() / sizeof(Word);
  constexpr std::size_t kBlock = 4096;  // a block without a hit is one vectorised loop
  for (std::size_t from = 0; from < count; from += kBlock) {
    const std::size_t to = std::min(count, from + kBlock);
    std::size_t hits = 0;
    for (std::size_t i = from; i < to; ++i)
      hits += (load<Word>(bytes.data() + sizeof(Word) * i) & exponent) == exponent;
    if (hits == 0) continue;
    for (std::size_t i = from; i < to; ++i)
      if ((load<Word>(bytes.data() + sizeof(Word) * i) & exponent) == exponent) return i;
  }
  return std::nullopt;
}

}  // namespace

std::size_t size_of(DType type) { return kTypes[static_cast<std::size_t>(type)].size; }
std::string_view to_string(DType type) { return kTypes[static_cast<std::size_t>(type)].name; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (std::size_t i = 0; i < kTypes.size(); ++i)
    if (kTypes[i].name == name) return static_cast<DType>(i);
  return std::nullopt;
}

bool is_floating(DType type) {
  return type == DType::F64 || type == DType::F32 || type == DType::F16 || type == DType::BF16;
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += cat(i == 0 ? "" : ", ", shape[i]);
  return out + "]";
}

std::string shown(std::string_view name) {
  constexpr std::size_t kLongest = 120;
  std::string out(name.substr(0, kLongest));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return name.size() > kLongest ? out + "..." : out;
}

std::optional<std::uint64_t> checked_bytes(DType type, std::span<const std::int64_t> shape) {
  std::uint64_t product = size_of(type);
  for (const std::int64_t side : shape)
    if (side < 0 || __builtin_mul_overflow(product, static_cast<std::uint64_t>(side), &product)) return std::nullopt;
  return product;
}

std::uint64_t count_of(std::span<const std::int64_t> shape) {
  std::uint64_t product = 1;
  for (const std::int64_t side : shape) product *= static_cast<std::uint64_t>(side);
  return product;
}

void convert(DType from, std::span<const std::byte> in, DType to, std::span<std::byte> out) {
  const std::size_t count = in.size() / size_of(from);
  DIVERGEN_CHECK(count * size_of(from) == in.size() && count * size_of(to) == out.size(), in.size(), " ", out.size());
  if (from == to) {
    if (count > 0) std::memcpy(out.data(), in.data(), in.size());
    return;
  }
  DIVERGEN_CHECK(is_floating(from) && is_floating(to), to_string(from), " to ", to_string(to));
  std::array<float, 2048> floats;
  for (std::size_t at = 0; at < count; at += floats.size()) {
    const std::size_t n = std::min(floats.size(), count - at);
    to_floats(from, in.data() + at * size_of(from), floats.data(), n);
    from_floats(floats.data(), to, out.data() + at * size_of(to), n);
  }
}

std::optional<std::uint64_t> first_not_finite(DType type, std::span<const std::byte> bytes) {
  switch (type) {
    case DType::F64:
      return first_with_exponent<std::uint64_t>(bytes, 0x7ff0000000000000u);
    case DType::F32:
      return first_with_exponent<std::uint32_t>(bytes, 0x7f800000u);
    case DType::F16:
      return first_with_exponent<std::uint16_t>(bytes, 0x7c00u);
    case DType::BF16:
      return first_with_exponent<std::uint16_t>(bytes, 0x7f80u);
    default:
      return std::nullopt;
  }
}

}  // namespace divergen::weights
