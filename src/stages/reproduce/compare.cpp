#include "stages/reproduce/compare.hpp"

#include <algorithm>
#include <cstdlib>

namespace divergen::stages {

Reproduction compare_cut_outs(const std::string& made_png, const image::Image& made, const std::string& kept_png,
                              const image::Image& kept) {
  Reproduction out;
  out.same_bytes = made_png == kept_png;
  out.pixels = static_cast<std::int64_t>(kept.width) * kept.height;
  if (made.width != kept.width || made.height != kept.height || made.channels != kept.channels) {
    out.differing = out.pixels;
    out.note =
        cat("the new cut-out is ", made.width, "x", made.height, ", the library's ", kept.width, "x", kept.height);
    return out;
  }
  const auto channels = static_cast<std::size_t>(kept.channels);
  std::int64_t sum = 0;
  for (std::size_t p = 0; p < kept.pixels.size(); p += channels) {
    int most = 0;
    for (std::size_t c = 0; c < channels; ++c) {
      const int difference = std::abs(int{made.pixels[p + c]} - int{kept.pixels[p + c]});
      most = std::max(most, difference);
      sum += difference;
    }
    out.differing += most > 0;
    out.largest = std::max(out.largest, most);
  }
  out.mean = kept.pixels.empty() ? 0 : static_cast<double>(sum) / static_cast<double>(kept.pixels.size());
  out.same_pixels = out.differing == 0;
  return out;
}

}  // namespace divergen::stages
