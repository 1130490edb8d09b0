#pragma once
// Views of arrays in memory: bounds, order, copying in row-major order.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace divergen::weights {

/// Strides of a row-major array, or with `fortran` of one whose first index runs fastest. Sizes must not overflow.
std::vector<std::int64_t> dense_strides(std::span<const std::int64_t> shape, bool fortran = false);

/// Position of the last element that the view touches; nothing when it leaves 64 bits. The view must not be empty.
std::optional<std::uint64_t> last_position(std::span<const std::int64_t> shape, std::span<const std::int64_t> stride,
                                           std::uint64_t offset);

/// Whether the elements lie one after the other in row-major order.
bool is_dense(std::span<const std::int64_t> shape, std::span<const std::int64_t> stride);

/// Copies elements [first, first + out.size() / element) of the view in row-major order. Bounds have been checked.
void copy_rows(std::span<const std::byte> storage, std::size_t element, std::span<const std::int64_t> shape,
               std::span<const std::int64_t> stride, std::uint64_t offset, std::uint64_t first,
               std::span<std::byte> out);

}  // namespace divergen::weights
