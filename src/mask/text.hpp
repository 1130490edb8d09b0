#pragma once
// The steps of reading COCO's compressed text that several readers share. Private to src/mask.

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace divergen::mask {

[[noreturn]] void refuse(const std::string& why);  // Error(Data)
[[noreturn]] void refuse_sum(std::uint64_t sum, std::int64_t height, std::int64_t width);
/// Positions must fit 32 bits, and a side 20.
void check_size(std::int64_t height, std::int64_t width);

/// One number at p; moves p behind it. A number is written in groups of five bits from the lowest, each plus 48, with
/// bit 5 set while more follow and bit 4 of the last one as its sign (cocoapi, rleToString). Throws Error(Data).
inline std::int64_t slow_number(const char*& p, const char* end) {
  std::int64_t x = 0;
  int shift = 0;
  unsigned c;
  do {
    if (p == end) refuse("its text ends within a number");
    c = static_cast<unsigned>(static_cast<unsigned char>(*p++)) - 48;
    if (c > 63 || shift > 50) refuse("its text holds a character that is not COCO's");
    x |= static_cast<std::int64_t>(c & 0x1f) << shift;
    shift += 5;
  } while ((c & 0x20) != 0);
  if ((c & 0x10) != 0) x |= -(std::int64_t{1} << shift);
  return x;
}

/// The same without branches for numbers of up to four characters, which nearly all are, where four can be read.
inline std::int64_t fast_number(const char*& p, const char* end) {
  if (end - p < 4) return slow_number(p, end);
  std::uint32_t v;
  std::memcpy(&v, p, 4);
  v -= 0x30303030;
  const std::uint32_t last = ~v & 0x20202020;    // lowest: the end of the number
  const std::uint32_t used = last ^ (last - 1);  // its bits and all below
  if (last == 0 || (v & 0xC0C0C0C0 & (used | used << 2)) != 0) return slow_number(p, end);
  const int length = std::countr_zero(last) / 8 + 1, bits = 5 * length;
  const std::uint64_t x = (v & 0x1f) | (v >> 3 & 0x3e0) | (v >> 6 & 0x7c00) | (v >> 9 & 0xf8000);
  p += length;
  return static_cast<std::int64_t>(x << (64 - bits)) >> (64 - bits);
}

/// Calls each(run) for the runs of a text: from the fourth on, what is written is the difference to the run two before.
/// Throws Error(Data).
template <class Each>
void for_each_run(std::string_view text, const Each& each) {
  const char *p = text.data(), *end = p + text.size();
  std::int64_t before = 0, last = 0;  // the runs two and one before
  for (std::size_t n = 0; p < end; ++n) {
    std::int64_t x = fast_number(p, end);
    if (n > 2) x += before;
    if (x < 0 || x > INT64_C(0xffffffff)) refuse("it has a negative or huge run");
    before = last;
    last = x;
    each(static_cast<std::uint32_t>(x));
  }
}

}  // namespace divergen::mask
