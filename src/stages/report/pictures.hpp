#pragma once
// Pictures inside the page: shrunk, JPEG, as data: URIs, and never more bytes of them than the page may have.

#include <cstdint>
#include <optional>
#include <string>

#include "base/fs.hpp"
#include "image/image.hpp"

namespace divergen::stages::report {

/// RFC 4648 base64 with padding.
std::string base64(std::string_view bytes);
/// "data:image/jpeg;base64,...". RGB.
std::string jpeg_uri(const image::Image& rgb, int quality);

/// The same picture in a box of at most `width` px; small ones are left as they are.
image::Image shrunk(const image::Image& picture, int width);

/// What the page may still take.
class PictureBudget {
 public:
  explicit PictureBudget(std::size_t bytes) : left_(bytes) {}
  /// Takes the text's length; false, and nothing taken, when there is no room.
  bool take(const std::string& text);

 private:
  std::size_t left_;
};

}  // namespace divergen::stages::report
