// Compressed masks and polygons of strangers: the fast ways against their plain twins.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/error.hpp"
#include "mask/plain.hpp"
#include "mask/rle.hpp"
#include "mask/spans.hpp"

namespace {

using namespace divergen;

template <class Action>
auto taken(const Action& action) -> std::optional<decltype(action())> {
  try {
    return action();
  } catch (const Error&) {
    return std::nullopt;
  }
}

void require(bool condition) {
  if (!condition) std::abort();
}

void check_text(std::string_view text, std::int64_t height, std::int64_t width) {
  const auto fast = taken([&] { return mask::from_text(text, height, width); });
  const auto plain = taken([&] { return mask::plain::from_text(text, height, width); });
  const auto spans = taken([&] {
    mask::Spans out;
    mask::to_spans(text, height, width, out);
    return out;
  });
  require(fast == plain && spans.has_value() == fast.has_value());
  if (!fast) return;
  require(mask::area(*fast) == mask::plain::area(*fast) && spans->area == mask::area(*fast));
  require(mask::bounding_box(*fast) == mask::plain::bounding_box(*fast) && spans->box() == mask::bounding_box(*fast));
  require(mask::to_text(*fast) == mask::plain::to_text(*fast));
  const auto pixels = mask::decode(*fast);
  require(pixels == mask::plain::decode(*fast));
  const mask::Rle again = mask::encode(pixels, height, width);
  require(again == mask::plain::encode(pixels, height, width) && again == mask::to_rle(*spans));
  require(mask::iou(*fast, again) == (mask::area(again) > 0 ? 1.0 : 0.0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 3) return 0;
  const std::int64_t height = data[1] % 64, width = data[2] % 64;
  if (data[0] % 2 == 0) {
    check_text({reinterpret_cast<const char*>(data) + 3, size - 3}, height, width);
    return 0;
  }
  std::vector<double> xy;
  for (std::size_t at = 3; at + 2 <= size; at += 2) {
    std::int16_t value;
    std::memcpy(&value, data + at, 2);
    xy.push_back(value / (data[0] % 4 == 1 ? 100.0 : 64.0));
  }
  xy.resize(xy.size() / 2 * 2);
  const auto fast = taken([&] { return mask::from_polygon(xy, height, width); });
  require(fast == taken([&] { return mask::plain::from_polygon(xy, height, width); }));
  return 0;
}
