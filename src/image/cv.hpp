#pragma once
// Views between Image and cv::Mat. Included only by .cpp files of src/image.

#include <opencv2/core.hpp>

#include "image/image.hpp"

namespace divergen::image::cv_detail {

/// OpenCV works in the calling thread. Pictures are shared out among threads and ranks by their callers, and its own
/// pool would be one more set of threads a rank; its parallel loops also keep 0.8 KB of every thread that ever ran one
/// (records of its tracing, never given back), so that a training which opens loaders again and again would grow.
inline const bool serial = [] {
  cv::setNumThreads(0);
  return true;
}();

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
