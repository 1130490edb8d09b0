#pragma once
// How far a cut-out that was made again is from the one in the library.

#include <cstdint>
#include <string>

#include "image/image.hpp"

namespace divergen::stages {

struct Reproduction {
  std::uint64_t item = 0;
  bool same_bytes = false, same_pixels = false;
  std::int64_t pixels = 0, differing = 0;  // of the cut-out, and of them those with any other channel
  int largest = 0;                         // difference of a channel
  double mean = 0;                         // difference over all channels
  std::string note;                        // why pixels cannot be compared; "" when they can
};

/// `made` and `kept` are the PNG and its pixels of the new cut-out and of the library's. Pure.
Reproduction compare_cut_outs(const std::string& made_png, const image::Image& made, const std::string& kept_png,
                              const image::Image& kept);

}  // namespace divergen::stages
