#include "models/annotators/matting.hpp"

#include <cmath>

#include "base/error.hpp"

namespace divergen::models {
namespace {

constexpr std::int64_t kMargin = 32, kMultiple = 32;
constexpr double kBackground = 85, kForeground = 170;      // of 255
constexpr std::int64_t kMiddleWidth = 15, kFineWidth = 7;  // half of self_refine_width1 = 30 and width2 = 15
constexpr std::int64_t kUncertainSide = 640;

/// OpenCV's elliptic structuring element of this odd side.
at::Tensor ellipse(std::int64_t side) {
  at::Tensor out = at::zeros({1, 1, side, side}, at::kFloat);
  const std::int64_t radius = side / 2;
  for (std::int64_t row = 0; row < side; ++row) {
    const auto dy = static_cast<double>(row - radius);
    const double r = static_cast<double>(radius), share = radius > 0 ? (r * r - dy * dy) / (r * r) : 0;
    const auto half = static_cast<std::int64_t>(std::nearbyint(r * std::sqrt(share)));
    const std::int64_t first = std::max<std::int64_t>(radius - half, 0), last = std::min(radius + half + 1, side);
    out.select(2, row).narrow(2, first, last - first).fill_(1);
  }
  return out;
}

/// As np.pad's "reflect": repeatedly where the picture is smaller than the margin.
at::Tensor padded(at::Tensor x, std::int64_t right, std::int64_t below) {
  std::int64_t left = kMargin, above = kMargin;
  while (left + right + above + below > 0) {
    const auto most_x = x.size(-1) - 1, most_y = x.size(-2) - 1;
    DIVERGEN_CHECK(most_x > 0 && most_y > 0, "a picture of one pixel");
    const auto l = std::min(left, most_x), r = std::min(right, most_x), a = std::min(above, most_y),
               b = std::min(below, most_y);
    x = at::reflection_pad2d(x, {l, r, a, b});
    left -= l, right -= r, above -= a, below -= b;
  }
  return x;
}

}  // namespace

at::Tensor uncertain(const at::Tensor& alpha, std::int64_t width) {
  const at::Tensor thumb = at::upsample_nearest2d(alpha, {kUncertainSide, kUncertainSide});
  const at::Tensor open = thumb.ge(1.0 / 255.0).logical_and(thumb.le(1.0 - 1.0 / 255.0)).to(at::kFloat);
  const at::Tensor grown = at::conv2d(open, ellipse(width).to(alpha.device()), {}, 1, width / 2).gt(0.5);
  return at::upsample_nearest2d(grown.to(at::kByte), {alpha.size(2), alpha.size(3)});
}

at::Tensor matte(const MatteFormer& model, const at::Tensor& pixels, const at::Tensor& found) {
  const auto height = pixels.size(1), width = pixels.size(2);
  const auto beyond = [](std::int64_t size) { return kMargin + (kMultiple - size % kMultiple) % kMultiple; };
  const auto right = beyond(width), below = beyond(height);
  const at::Tensor picture = padded(pixels.unsqueeze(0), right, below);
  const at::Tensor rough = padded(found.unsqueeze(0).unsqueeze(0), right, below).mul(255);
  const at::Tensor is_background = rough.lt(kBackground), is_object = rough.ge(kForeground);
  const at::Tensor is_open = is_background.logical_or(is_object).logical_not();
  const auto out = model.forward(picture, at::cat({is_background, is_open, is_object}, 1).to(at::kFloat));

  at::Tensor alpha = out.coarse;
  alpha = at::where(uncertain(alpha, kMiddleWidth).gt(0), out.middle, alpha);
  alpha = at::where(uncertain(alpha, kFineWidth).gt(0), out.fine, alpha);
  at::Tensor bytes = alpha.mul(255).to(at::kByte);
  bytes = bytes.masked_fill(is_background, 0).masked_fill(is_object, 255);
  return bytes.select(0, 0).select(0, 0).narrow(0, kMargin, height).narrow(1, kMargin, width);
}

image::Image stretched_matte(const at::Tensor& alpha) {
  const at::Tensor bytes = alpha.cpu().contiguous();
  image::Image mask(static_cast<int>(alpha.size(0)), static_cast<int>(alpha.size(1)), 1);
  const std::uint8_t* data = bytes.const_data_ptr<std::uint8_t>();
  const auto [least, most] = std::minmax_element(data, data + bytes.numel());
  const double range = *most - *least;
  for (std::size_t i = 0; i < mask.pixels.size(); ++i)
    mask.pixels[i] = range > 0 ? static_cast<std::uint8_t>((data[i] - *least) / range * 255) : std::uint8_t{0};
  return mask;
}

}  // namespace divergen::models
