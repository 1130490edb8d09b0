#include "models/diffusion/pixels.hpp"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <memory>

namespace divergen::models {

at::Tensor to_bytes(const at::Tensor& x, PixelRule rule) {
  const at::Tensor values = rule == PixelRule::Diffusers ? (x * 0.5 + 0.5).clamp(0, 1).to(at::kFloat).mul(255).round()
                                                         : ((x + 1.0) * 127.5).round().clamp(0, 255);
  return values.to(at::kByte).permute({0, 2, 3, 1}).contiguous();
}

namespace {

/// Bytes [N, H, W, C] on the CPU.
std::vector<image::Image> pictures_of(const at::Tensor& bytes) {
  std::vector<image::Image> out;
  for (std::int64_t i = 0; i < bytes.size(0); ++i) {
    image::Image picture(static_cast<int>(bytes.size(1)), static_cast<int>(bytes.size(2)),
                         static_cast<int>(bytes.size(3)));
    std::memcpy(picture.pixels.data(), bytes[i].const_data_ptr(), picture.pixels.size());
    out.push_back(std::move(picture));
  }
  return out;
}

}  // namespace

std::vector<image::Image> to_pictures(const at::Tensor& x, PixelRule rule) {
  return pictures_of(to_bytes(x, rule).cpu());
}

std::function<std::vector<image::Image>()> start_pictures(const at::Tensor& x, PixelRule rule) {
  at::Tensor bytes = to_bytes(x, rule);
  if (bytes.is_cpu()) return [bytes] { return pictures_of(bytes); };
  const at::Device device = bytes.device();
  bytes = bytes.to(at::kCPU, /*non_blocking=*/true);
  const c10::impl::VirtualGuardImpl guard(device.type());
  const auto ready = std::make_shared<c10::Event>(device.type());
  ready->record(guard.getStream(device));
  return [bytes, ready] {
    ready->synchronize();
    return pictures_of(bytes);
  };
}

}  // namespace divergen::models
