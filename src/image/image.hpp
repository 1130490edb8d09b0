#pragma once
// Pictures as plain bytes. OpenCV stays inside the .cpp files of this folder.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"

namespace divergen::image {

/// Height × width × channels, rows from the top, channels interleaved: 1 grey, 3 RGB, 4 RGBA (not premultiplied).
struct Image {
  int height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> pixels;

  Image() = default;
  Image(int h, int w, int c, std::uint8_t value = 0)
      : height(h),
        width(w),
        channels(c),
        pixels(static_cast<std::size_t>(h) * static_cast<std::size_t>(w) * static_cast<std::size_t>(c), value) {}

  bool empty() const { return pixels.empty(); }
  std::uint8_t* at(int y, int x) { return pixels.data() + offset(y, x); }
  const std::uint8_t* at(int y, int x) const { return pixels.data() + offset(y, x); }
  bool operator==(const Image&) const = default;

 private:
  std::size_t offset(int y, int x) const {
    return (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)) *
           static_cast<std::size_t>(channels);
  }
};

/// A decoded picture, or why there is none.
struct Decoded {
  std::optional<Image> image;
  std::string problem;
};

enum class Channels { AsStored, Rgb, Rgba, Grey };

/// Decodes PNG or JPEG bytes. Never throws on bad bytes: `problem` says what is wrong with them. Pictures of more than
/// 2^26 pixels are refused before decoding (reference/reliability.md §2). EXIF rotation is applied when asked for.
Decoded decode(std::string_view bytes, Channels channels = Channels::Rgb, bool apply_exif = false);

/// Where in a picture.
struct Region {
  int x = 0, y = 0, width = 0, height = 0;
};
/// That part of decode(bytes), the picture being of this size: in a JPEG it costs what it covers and what is stored
/// before it. Damage behind it goes unnoticed. `problem` when the picture is of another size. `region` must not be
/// empty, nor leave the picture.
Decoded decode_region(std::string_view bytes, int height, int width, const Region& region);

/// The level at which cut-outs are no larger than Pillow makes them, at several times its speed (tests/bench/store.py).
inline constexpr int kPngLevel = 5;
/// level 0..12: libdeflate's effort. Lossless; the same bytes for the same pixels on any machine.
std::string encode_png(const Image& image, int level = kPngLevel);
std::string encode_jpeg(const Image& image, int quality);

Image to_rgb(const Image& image);  // grey is repeated, alpha is dropped
Image crop(const Image& image, int x, int y, int width, int height);
Image flip_horizontal(const Image& image);

}  // namespace divergen::image
