#pragma once
// Element types of weight files, and conversion between the floating ones.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace divergen::weights {

/// The types that safetensors names (huggingface/safetensors, Dtype). The unsigned ones beyond U8 and the 8-bit floats
/// can be listed and copied, not converted.
enum class DType { F64, F32, F16, BF16, I64, I32, I16, I8, U8, Bool, U16, U32, U64, F8_E4M3, F8_E5M2 };

std::size_t size_of(DType type);
/// safetensors' names: "F32", "BF16", "BOOL" ...
std::string_view to_string(DType type);
std::optional<DType> parse_dtype(std::string_view name);  // the same names
/// F64, F32, F16, BF16: those that convert() knows.
bool is_floating(DType type);

std::string shape_text(std::span<const std::int64_t> shape);  // "[3, 4]"
/// A name from a stranger's file as messages show it: at most 120 bytes, control characters as '?'.
std::string shown(std::string_view name);

/// Elements times their size; nothing when a side is negative or the product leaves 64 bits.
std::optional<std::uint64_t> checked_bytes(DType type, std::span<const std::int64_t> shape);
std::uint64_t count_of(std::span<const std::int64_t> shape);  // of a shape that was checked

/// Converts in.size() / size_of(from) elements: floating to floating, rounding to nearest even as LibTorch does (double
/// to 16 bits goes through float); equal types are copied. `out` must have the fitting size and not overlap `in`.
void convert(DType from, std::span<const std::byte> in, DType to, std::span<std::byte> out);

/// Position of the first element that is NaN or infinite; nothing for other types than floating.
std::optional<std::uint64_t> first_not_finite(DType type, std::span<const std::byte> bytes);

}  // namespace divergen::weights
