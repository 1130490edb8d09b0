#include "stages/evaluate/detections.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace divergen::stages {

mask::Rle encode_in_box(const std::uint8_t* bitmap, std::int64_t height, std::int64_t width, std::int64_t x0,
                        std::int64_t y0, std::int64_t x1, std::int64_t y1) {
  x0 = std::clamp<std::int64_t>(x0, 0, width), x1 = std::clamp<std::int64_t>(x1, x0, width);
  y0 = std::clamp<std::int64_t>(y0, 0, height), y1 = std::clamp<std::int64_t>(y1, y0, height);
  mask::Rle out{height, width, {}};
  std::int64_t start = 0;  // of the current run, in column order
  bool inside = false;
  const auto change = [&](std::int64_t at) {
    out.counts.push_back(static_cast<std::uint32_t>(at - start));
    start = at;
    inside = !inside;
  };
  const bool is_full_height = y0 == 0 && y1 == height;
  for (std::int64_t x = x0; x < x1; ++x) {
    for (std::int64_t y = y0; y < y1; ++y)
      if ((bitmap[y * width + x] != 0) != inside) change(x * height + y);
    if (inside && !is_full_height) change(x * height + y1);
  }
  if (inside && x1 < width) change(x1 * height);
  if (start < height * width || out.counts.empty())
    out.counts.push_back(static_cast<std::uint32_t>(height * width - start));
  return out;
}

std::vector<lvis::Detection> to_lvis(const models::Detections& detections, std::int64_t image_id,
                                     const ClassMap& classes) {
  const at::Tensor boxes = detections.boxes.cpu().to(at::kFloat).contiguous();
  const at::Tensor scores = detections.scores.cpu().to(at::kFloat).contiguous();
  const at::Tensor labels = detections.classes.cpu().to(at::kLong).contiguous();
  const at::Tensor masks = detections.masks.to(at::kByte).cpu().contiguous();
  const std::int64_t n = boxes.size(0), height = masks.size(1), width = masks.size(2);
  std::vector<lvis::Detection> out;
  for (std::int64_t i = 0; i < n; ++i) {
    const float* b = boxes.const_data_ptr<float>() + 4 * i;
    lvis::Detection d;
    d.image_id = image_id;
    d.category_id = classes.category_of.at(static_cast<std::size_t>(labels.const_data_ptr<std::int64_t>()[i]));
    d.score = scores.const_data_ptr<float>()[i];
    const float w = b[2] - b[0], h = b[3] - b[1];
    d.box = {b[0], b[1], w, h};
    // A pasted mask reaches 0.5 only inside its box; one pixel more is safe against rounding of the box's edges.
    d.rle =
        encode_in_box(masks.const_data_ptr<std::uint8_t>() + i * height * width, height, width,
                      static_cast<std::int64_t>(std::floor(b[0])) - 1, static_cast<std::int64_t>(std::floor(b[1])) - 1,
                      static_cast<std::int64_t>(std::ceil(b[2])) + 1, static_cast<std::int64_t>(std::ceil(b[3])) + 1);
    d.area = static_cast<double>(mask::area(d.rle));
    out.push_back(std::move(d));
  }
  return out;
}

}  // namespace divergen::stages
