#include "image/draw.hpp"

#include <algorithm>

#include <opencv2/imgproc.hpp>

#include "image/cv.hpp"

namespace divergen::image {
namespace {

void put(Image& picture, int y, int x, Colour colour) {
  if (y >= 0 && y < picture.height && x >= 0 && x < picture.width)
    std::copy(colour.begin(), colour.end(), picture.at(y, x));
}

}  // namespace

void draw_outline(Image& picture, const Image& mask, int x, int y, Colour colour) {
  DIVERGEN_CHECK(picture.channels == 3 && (mask.empty() || mask.channels == 1));
  const auto inside = [&](int v, int u) {
    return v >= 0 && v < mask.height && u >= 0 && u < mask.width && *mask.at(v, u) != 0;
  };
  for (int v = 0; v < mask.height; ++v)
    for (int u = 0; u < mask.width; ++u)
      if (inside(v, u) && !(inside(v - 1, u) && inside(v + 1, u) && inside(v, u - 1) && inside(v, u + 1)))
        put(picture, y + v, x + u, colour);
}

void draw_box(Image& picture, int x0, int y0, int x1, int y1, Colour colour) {
  DIVERGEN_CHECK(picture.channels == 3);
  for (int x = x0; x <= x1; ++x) {
    put(picture, y0, x, colour);
    put(picture, y1, x, colour);
  }
  for (int y = y0; y <= y1; ++y) {
    put(picture, y, x0, colour);
    put(picture, y, x1, colour);
  }
}

void draw_text(Image& picture, const std::string& text, int x, int y, Colour colour) {
  DIVERGEN_CHECK(picture.channels == 3);
  constexpr int kFont = cv::FONT_HERSHEY_PLAIN;
  constexpr double kScale = 0.9;  // the plain font is 10 px high at 1
  int baseline = 0;
  const cv::Size size = cv::getTextSize(text, kFont, kScale, 1, &baseline);
  const int height = size.height + baseline;
  x = std::clamp(x, 0, std::max(0, picture.width - size.width));
  y = std::clamp(y - height, 0, std::max(0, picture.height - height));
  cv::Mat view = cv_detail::view(picture);
  cv::rectangle(view, cv::Rect(x, y, size.width, height), cv::Scalar(20, 20, 20), cv::FILLED);
  cv::putText(view, text, cv::Point(x, y + size.height), kFont, kScale, cv::Scalar(colour[0], colour[1], colour[2]), 1,
              cv::LINE_AA);
}

Image enlarge(const Image& image, int factor) {
  DIVERGEN_CHECK(factor >= 1);
  Image out(image.height * factor, image.width * factor, image.channels);
  for (int y = 0; y < out.height; ++y)
    for (int x = 0; x < out.width; ++x)
      std::copy_n(image.at(y / factor, x / factor), static_cast<std::size_t>(image.channels), out.at(y, x));
  return out;
}

Image beside(const Image& left, const Image& right, int gap) {
  DIVERGEN_CHECK(left.channels == right.channels);
  Image out(std::max(left.height, right.height), left.width + gap + right.width, left.channels, 255);
  const auto place = [&](const Image& part, int x) {
    for (int y = 0; y < part.height; ++y)
      std::copy_n(part.at(y, 0), static_cast<std::size_t>(part.width) * static_cast<std::size_t>(part.channels),
                  out.at(y, x));
  };
  place(left, 0);
  place(right, left.width + gap);
  return out;
}

}  // namespace divergen::image
