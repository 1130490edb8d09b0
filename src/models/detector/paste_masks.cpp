// Pasting of the mask head's 28 x 28 probabilities into images: the one operation whose cost grows with the image, so
// it is written out (a general grid sampler builds a grid of coordinates of every pixel first).

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.hpp"
#include "models/detector/box_ops.hpp"

namespace divergen::models {
namespace {

/// Where the pixels [begin, begin + size) of an axis read the mask: between `low` and `high` of a mask with a border of
/// zeros, which stands for "outside".
struct Axis {
  std::int64_t begin = 0;
  std::vector<std::int32_t> low;  // high is low + 1
  std::vector<float> to_low, to_high;
  std::int64_t size() const { return static_cast<std::int64_t>(low.size()); }
};

/// paste_masks_in_image's steps, in its order and in float: the pixels from floor(start) - 1 to ceil(end) + 1 within
/// the image; their centres as -1 ... 1 over the box; from there, grid_sample's unnormalisation without aligned
/// corners.
Axis make_axis(float start, float end, std::int64_t pixels, std::int64_t side) {
  Axis axis;
  if (!std::isfinite(start) || !std::isfinite(end)) return axis;
  const auto limit = static_cast<float>(pixels);
  axis.begin = static_cast<std::int64_t>(std::clamp(std::floor(start) - 1.0F, 0.0F, limit));
  const auto stop = static_cast<std::int64_t>(std::clamp(std::ceil(end) + 1.0F, 0.0F, limit));
  for (std::int64_t i = axis.begin; i < stop; ++i) {
    const float at = (static_cast<float>(i) + 0.5F - start) / (end - start) * 2.0F - 1.0F;
    const float x = (at + 1.0F) * (static_cast<float>(side) / 2.0F) - 0.5F;
    // Beyond the border (or 0/0 of a box without width), any place among the zeros of the border will do.
    const bool inside = x > -1.0F && x < static_cast<float>(side);
    const float low = inside ? std::floor(x) : -1.0F;
    const float part = inside ? x - low : 0.0F;
    axis.low.push_back(static_cast<std::int32_t>(low) + 1);
    axis.to_low.push_back(1.0F - part);
    axis.to_high.push_back(part);
  }
  return axis;
}

void paste(const float* mask, std::int64_t side, const float* box, std::int64_t height, std::int64_t width,
           float threshold, bool* out) {
  const std::int64_t padded = side + 2;
  std::vector<float> bordered(static_cast<std::size_t>(padded * padded), 0.0F);
  for (std::int64_t y = 0; y < side; ++y) std::copy_n(mask + y * side, side, bordered.data() + (y + 1) * padded + 1);
  const Axis columns = make_axis(box[0], box[2], width, side), rows = make_axis(box[1], box[3], height, side);
  for (std::int64_t i = 0; i < rows.size(); ++i) {
    const auto row = static_cast<std::size_t>(i);
    const float* above = bordered.data() + rows.low[row] * padded;
    const float* below = above + padded;
    const float up = rows.to_low[row], down = rows.to_high[row];
    bool* to = out + (rows.begin + i) * width + columns.begin;
    for (std::size_t j = 0; j < columns.low.size(); ++j) {
      const std::int32_t at = columns.low[j];
      const float left = columns.to_low[j], right = columns.to_high[j];
      to[j] = above[at] * (left * up) + above[at + 1] * (right * up) + below[at] * (left * down) +
                  below[at + 1] * (right * down) >=
              threshold;
    }
  }
}

}  // namespace

at::Tensor paste_masks(const at::Tensor& probabilities, const at::Tensor& boxes, std::int64_t height,
                       std::int64_t width, double threshold) {
  const std::int64_t n = boxes.size(0);
  DIVERGEN_CHECK(probabilities.dim() == 3 && probabilities.size(0) == n && boxes.size(1) == 4 &&
                     probabilities.size(1) == probabilities.size(2) && threshold > 0,
                 probabilities.sizes(), boxes.sizes(), threshold);
  const at::Tensor masks = probabilities.detach().to(at::kCPU, at::kFloat).contiguous();
  const at::Tensor places = boxes.detach().to(at::kCPU, at::kFloat).contiguous();
  at::Tensor out = at::zeros({n, height, width}, at::kBool);
  const std::int64_t side = masks.size(1);
  const float* mask = masks.const_data_ptr<float>();
  const float* box = places.const_data_ptr<float>();
  bool* result = out.mutable_data_ptr<bool>();
  at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      paste(mask + i * side * side, side, box + i * 4, height, width, static_cast<float>(threshold),
            result + i * height * width);
  });
  return out;
}

}  // namespace divergen::models
