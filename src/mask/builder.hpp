#pragma once
// Private to src/mask: puts runs together.

#include "mask/rle.hpp"

namespace divergen::mask {

/// Appends a run, joining it with the last where both have the same value.
class Builder {
 public:
  Builder(std::int64_t height, std::int64_t width) { out_.height = height, out_.width = width; }
  void reserve(std::size_t runs) { out_.counts.reserve(runs); }
  void add(std::uint64_t length, bool inside) {
    if (length == 0) return;
    if (inside != current_) {
      out_.counts.push_back(static_cast<std::uint32_t>(run_));
      run_ = 0;
      current_ = inside;
    }
    run_ += length;
  }
  Rle finish() {
    out_.counts.push_back(static_cast<std::uint32_t>(run_));
    return std::move(out_);
  }

 private:
  Rle out_;
  std::uint64_t run_ = 0;
  bool current_ = false;
};

/// The mask whose inside begins and ends at the given positions in turn (ascending; two at one place cancel).
Rle from_crossings(std::span<const std::uint32_t> crossings, std::int64_t height, std::int64_t width);

}  // namespace divergen::mask
