#include "stages/report/pictures.hpp"

#include <algorithm>
#include <cmath>

#include "image/geometry.hpp"

namespace divergen::stages::report {

std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t three = 0;
    const std::size_t have = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t k = 0; k < 3; ++k) three = three << 8 | (k < have ? static_cast<std::uint8_t>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k) out += k <= have ? kDigits[three >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string jpeg_uri(const image::Image& rgb, int quality) {
  return "data:image/jpeg;base64," + base64(image::encode_jpeg(rgb, quality));
}

image::Image shrunk(const image::Image& picture, int width) {
  if (picture.width <= width) return picture;
  const int height =
      std::max(1, static_cast<int>(std::lround(picture.height * static_cast<double>(width) / picture.width)));
  return image::resize_area(picture, height, width);
}

bool PictureBudget::take(const std::string& text) {
  if (text.size() > left_) return false;
  left_ -= text.size();
  return true;
}

}  // namespace divergen::stages::report
