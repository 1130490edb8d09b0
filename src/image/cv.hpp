#pragma once
// Views between Image and cv::Mat. Included only by .cpp files of src/image.

#include <opencv2/core.hpp>

#include "image/image.hpp"

namespace divergen::image::cv_detail {

/// Shares memory with `image`, which must outlive it.
inline cv::Mat view(const Image& image) {
  return {image.height, image.width, CV_8UC(image.channels), const_cast<std::uint8_t*>(image.pixels.data())};
}

inline Image copy_of(const cv::Mat& mat) {
  DIVERGEN_CHECK(mat.depth() == CV_8U);
  Image out(mat.rows, mat.cols, mat.channels());
  mat.copyTo(view(out));
  return out;
}

}  // namespace divergen::image::cv_detail
