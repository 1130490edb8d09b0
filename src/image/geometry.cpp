#include "image/geometry.hpp"

#include <opencv2/imgproc.hpp>

#include <cmath>

#include "image/cv.hpp"

namespace divergen::image {

using cv_detail::copy_of;
using cv_detail::view;

namespace {

Image resize_with(const Image& image, int height, int width, int mode) {
  DIVERGEN_CHECK(height > 0 && width > 0 && !image.empty(), height, "x", width);
  Image out(height, width, image.channels);
  cv::Mat target = view(out);
  cv::resize(view(image), target, {width, height}, 0, 0, mode);
  return out;
}

}  // namespace

Image resize_linear(const Image& image, int height, int width) {
  return resize_with(image, height, width, cv::INTER_LINEAR);
}
Image resize_area(const Image& image, int height, int width) {
  return resize_with(image, height, width, cv::INTER_AREA);
}

Image box_blur(const Image& image, int size) {
  Image out(image.height, image.width, image.channels);
  cv::Mat target = view(out);
  cv::blur(view(image), target, {size, size});
  return out;
}

std::optional<Component> largest_component(const Image& grey, int threshold) {
  DIVERGEN_CHECK(grey.channels == 1);
  cv::Mat binary;
  cv::threshold(view(grey), binary, threshold, 255, cv::THRESH_BINARY);
  std::vector<std::vector<cv::Point>> contours;
  cv::findContours(binary, contours, cv::RETR_EXTERNAL, cv::CHAIN_APPROX_NONE);
  if (contours.empty()) return std::nullopt;
  // findContours starts a contour at its topmost, then leftmost point; compare those to break ties by raster order.
  const auto start = [](const std::vector<cv::Point>& c) { return std::pair(c.front().y, c.front().x); };
  std::size_t best = 0;
  double best_area = -1;
  for (std::size_t i = 0; i < contours.size(); ++i) {
    const double area = cv::contourArea(contours[i]);
    if (area > best_area || (area == best_area && start(contours[i]) > start(contours[best]))) {
      best = i;
      best_area = area;
    }
  }
  Component out;
  out.mask = Image(grey.height, grey.width, 1);
  cv::Mat target = view(out.mask);
  cv::drawContours(target, contours, static_cast<int>(best), cv::Scalar(255), cv::FILLED);
  const cv::Rect box = cv::boundingRect(contours[best]);
  out.x = box.x;
  out.y = box.y;
  out.width = box.width;
  out.height = box.height;
  out.contour_area = best_area;
  return out;
}

std::vector<std::vector<double>> trace_contours(const Image& mask) {
  std::vector<std::vector<cv::Point>> contours;
  cv::Mat binary = view(mask).clone();
  cv::findContours(binary, contours, cv::RETR_EXTERNAL, cv::CHAIN_APPROX_SIMPLE);
  std::vector<std::vector<double>> out;
  for (const auto& contour : contours) {
    std::vector<double> points;
    for (const cv::Point& p : contour) {
      points.push_back(p.x);
      points.push_back(p.y);
    }
    out.push_back(std::move(points));
  }
  return out;
}

Image warp_affine(const Image& image, const std::array<double, 6>& m, int height, int width) {
  const cv::Mat matrix(2, 3, CV_64F, const_cast<double*>(m.data()));
  cv::Mat source;
  view(image).convertTo(source, CV_32F);
  const bool has_alpha = image.channels == 4;
  if (has_alpha)
    source.forEach<cv::Vec4f>([](cv::Vec4f& p, const int*) {
      for (int c = 0; c < 3; ++c) p[c] *= p[3] / 255.0F;
    });
  cv::Mat warped;
  cv::warpAffine(source, warped, matrix, {width, height}, cv::INTER_LINEAR | cv::WARP_INVERSE_MAP, cv::BORDER_CONSTANT,
                 cv::Scalar::all(0));
  if (has_alpha)
    warped.forEach<cv::Vec4f>([](cv::Vec4f& p, const int*) {
      for (int c = 0; c < 3 && p[3] > 0; ++c) p[c] *= 255.0F / p[3];
    });
  cv::Mat bytes;
  warped.convertTo(bytes, CV_8U);
  return copy_of(bytes);
}

}  // namespace divergen::image
