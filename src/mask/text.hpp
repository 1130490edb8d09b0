#pragma once
// The steps of reading COCO's compressed text that several readers share. Private to src/mask.

#include <cstdint>
#include <string>
#include <string_view>

namespace divergen::mask {

[[noreturn]] void refuse(const std::string& why);  // Error(Data)
[[noreturn]] void refuse_sum(std::uint64_t sum, std::int64_t height, std::int64_t width);
/// Positions must fit 32 bits, and a side 20.
void check_size(std::int64_t height, std::int64_t width);

/// Calls each(run) for the runs of a text. A number is written in groups of five bits from the lowest, each plus 48,
/// with bit 5 set while more follow and bit 4 of the last one as its sign; from the fourth run on, what is written is
/// the difference to the run two before (cocoapi, rleToString). Throws Error(Data).
template <class Each>
void for_each_run(std::string_view text, const Each& each) {
  const char *p = text.data(), *end = p + text.size();
  std::int64_t before[2] = {0, 0};  // the runs two and one before
  for (std::size_t n = 0; p < end; ++n) {
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
    if (n > 2) x += before[0];
    if (x < 0 || x > INT64_C(0xffffffff)) refuse("it has a negative or huge run");
    before[0] = before[1];
    before[1] = x;
    each(static_cast<std::uint32_t>(x));
  }
}

}  // namespace divergen::mask
