#include "models/diffusion/pixels.hpp"

#include <ATen/ATen.h>

#include <cstring>

namespace divergen::models {

at::Tensor to_bytes(const at::Tensor& x, PixelRule rule) {
  const at::Tensor values = rule == PixelRule::Diffusers ? (x * 0.5 + 0.5).clamp(0, 1).to(at::kFloat).mul(255).round()
                                                         : ((x + 1.0) * 127.5).round().clamp(0, 255);
  return values.to(at::kByte).permute({0, 2, 3, 1}).contiguous();
}

std::vector<image::Image> to_pictures(const at::Tensor& x, PixelRule rule) {
  const at::Tensor bytes = to_bytes(x, rule).cpu();
  std::vector<image::Image> out;
  for (std::int64_t i = 0; i < bytes.size(0); ++i) {
    image::Image picture(static_cast<int>(bytes.size(1)), static_cast<int>(bytes.size(2)),
                         static_cast<int>(bytes.size(3)));
    std::memcpy(picture.pixels.data(), bytes[i].const_data_ptr(), picture.pixels.size());
    out.push_back(std::move(picture));
  }
  return out;
}

}  // namespace divergen::models
