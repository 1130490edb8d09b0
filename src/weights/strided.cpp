#include "weights/strided.hpp"

#include <algorithm>
#include <cstring>

namespace divergen::weights {

std::vector<std::int64_t> dense_strides(std::span<const std::int64_t> shape, bool fortran) {
  std::vector<std::int64_t> out(shape.size());
  std::int64_t step = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::size_t side = fortran ? i : shape.size() - 1 - i;
    out[side] = step;
    step *= std::max<std::int64_t>(shape[side], 1);
  }
  return out;
}

std::optional<std::uint64_t> last_position(std::span<const std::int64_t> shape, std::span<const std::int64_t> stride,
                                           std::uint64_t offset) {
  std::uint64_t last = offset;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    std::uint64_t reach = 0;
    if (__builtin_mul_overflow(static_cast<std::uint64_t>(shape[i] - 1), static_cast<std::uint64_t>(stride[i]),
                               &reach) ||
        __builtin_add_overflow(last, reach, &last))
      return std::nullopt;
  }
  return last;
}

bool is_dense(std::span<const std::int64_t> shape, std::span<const std::int64_t> stride) {
  std::int64_t expected = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && stride[i] != expected) return false;
    expected *= std::max<std::int64_t>(shape[i], 1);
  }
  return true;
}

namespace {

/// Copies `count` elements that lie `step` elements apart. A constant size lets the compiler move whole words.
template <std::size_t kSize>
void copy_run(const std::byte* from, std::int64_t step, std::byte* to, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i, to += kSize, from += step * static_cast<std::int64_t>(kSize))
    std::memcpy(to, from, kSize);
}

void copy_run(const std::byte* from, std::int64_t step, std::size_t element, std::byte* to, std::uint64_t count) {
  if (step == 1) {
    std::memcpy(to, from, count * element);
  } else if (element == 8) {
    copy_run<8>(from, step, to, count);
  } else if (element == 4) {
    copy_run<4>(from, step, to, count);
  } else if (element == 2) {
    copy_run<2>(from, step, to, count);
  } else {
    copy_run<1>(from, step, to, count);
  }
}

}  // namespace

void copy_rows(std::span<const std::byte> storage, std::size_t element, std::span<const std::int64_t> shape,
               std::span<const std::int64_t> stride, std::uint64_t offset, std::uint64_t first,
               std::span<std::byte> out) {
  std::uint64_t left = out.size() / element;
  if (left == 0) return;
  if (shape.empty() || is_dense(shape, stride)) {
    std::memcpy(out.data(), storage.data() + (offset + first) * element, out.size());
    return;
  }
  std::vector<std::uint64_t> index(shape.size());
  for (std::size_t i = shape.size(), rest = first; i-- > 0;) {
    index[i] = rest % static_cast<std::uint64_t>(shape[i]);
    rest /= static_cast<std::uint64_t>(shape[i]);
  }
  const std::size_t inner = shape.size() - 1;
  std::byte* to = out.data();
  while (left > 0) {
    std::uint64_t position = offset;
    for (std::size_t i = 0; i < shape.size(); ++i) position += index[i] * static_cast<std::uint64_t>(stride[i]);
    const std::uint64_t run = std::min(left, static_cast<std::uint64_t>(shape[inner]) - index[inner]);
    copy_run(storage.data() + position * element, stride[inner], element, to, run);
    to += run * element;
    left -= run;
    index[inner] += run;
    for (std::size_t i = inner; i > 0 && index[i] == static_cast<std::uint64_t>(shape[i]); --i) {
      index[i] = 0;
      ++index[i - 1];
    }
  }
}

}  // namespace divergen::weights
