#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include <algorithm>
#include <cstring>

#include "image/cv.hpp"
#include "image/jpeg.hpp"
#include "image/png.hpp"

namespace divergen::image {
namespace {

using cv_detail::copy_of;
using cv_detail::view;

constexpr std::int64_t kMaxPixels = std::int64_t{1} << 26;

std::uint32_t big_endian(std::string_view bytes, std::size_t at, int count) {
  std::uint32_t value = 0;
  for (int i = 0; i < count; ++i)
    value = value << 8 | static_cast<std::uint8_t>(bytes[at + static_cast<std::size_t>(i)]);
  return value;
}

struct Size {
  std::int64_t width = 0, height = 0;
};

std::optional<Size> png_size(std::string_view bytes) {
  if (bytes.size() < 24 || !bytes.starts_with("\x89PNG\r\n\x1a\n")) return std::nullopt;
  return Size{big_endian(bytes, 16, 4), big_endian(bytes, 20, 4)};
}

/// Walks the JPEG's segments to its frame header.
std::optional<Size> jpeg_size(std::string_view bytes) {
  if (bytes.size() < 4 || !bytes.starts_with("\xff\xd8")) return std::nullopt;
  std::size_t at = 2;
  while (at + 9 < bytes.size()) {
    if (static_cast<std::uint8_t>(bytes[at]) != 0xff) return std::nullopt;
    const auto marker = static_cast<std::uint8_t>(bytes[at + 1]);
    const bool is_frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (is_frame) return Size{big_endian(bytes, at + 7, 2), big_endian(bytes, at + 5, 2)};
    at += marker == 0xff ? 1 : 2 + big_endian(bytes, at + 2, 2);
  }
  return std::nullopt;
}

cv::Mat with_channels(const cv::Mat& mat, Channels wanted) {
  static constexpr int kFromGrey[] = {-1, cv::COLOR_GRAY2RGB, cv::COLOR_GRAY2RGBA, -1};
  static constexpr int kFromBgr[] = {cv::COLOR_BGR2RGB, cv::COLOR_BGR2RGB, cv::COLOR_BGR2RGBA, cv::COLOR_BGR2GRAY};
  static constexpr int kFromBgra[] = {cv::COLOR_BGRA2RGBA, cv::COLOR_BGRA2RGB, cv::COLOR_BGRA2RGBA,
                                      cv::COLOR_BGRA2GRAY};
  const int* table = mat.channels() == 1 ? kFromGrey : mat.channels() == 3 ? kFromBgr : kFromBgra;
  const int code = table[static_cast<int>(wanted)];
  if (code < 0) return mat;
  cv::Mat out;
  cv::cvtColor(mat, out, code);
  return out;
}

/// RGB(A) or grey as read by png::decode(), with the channels that are asked for.
Image with_channels(Image image, Channels wanted) {
  const int have = image.channels;
  if (wanted == Channels::AsStored || (wanted == Channels::Rgb && have == 3) ||
      (wanted == Channels::Rgba && have == 4) || (wanted == Channels::Grey && have == 1))
    return image;
  if (wanted == Channels::Rgb) return to_rgb(image);
  if (wanted == Channels::Rgba) {
    Image out(image.height, image.width, 4, 255);
    const auto step = static_cast<std::size_t>(have);
    const std::size_t count = image.pixels.size() / step, green = step == 1 ? 0 : 1, blue = step == 1 ? 0 : 2;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint8_t* from = image.pixels.data() + i * step;
      out.pixels[4 * i] = from[0];
      out.pixels[4 * i + 1] = from[green];
      out.pixels[4 * i + 2] = from[blue];
    }
    return out;
  }
  cv::Mat grey;
  cv::cvtColor(view(image), grey, have == 3 ? cv::COLOR_RGB2GRAY : cv::COLOR_RGBA2GRAY);
  return copy_of(grey);
}

std::string encode(const Image& image, const char* extension, const std::vector<int>& parameters) {
  DIVERGEN_CHECK(!image.empty());
  cv::Mat mat = view(image), swapped;
  if (image.channels == 3) cv::cvtColor(mat, swapped, cv::COLOR_RGB2BGR);
  if (image.channels == 4) cv::cvtColor(mat, swapped, cv::COLOR_RGBA2BGRA);
  std::vector<unsigned char> bytes;
  const bool ok = cv::imencode(extension, swapped.empty() ? mat : swapped, bytes, parameters);
  DIVERGEN_CHECK(ok, extension);
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Decoded decode(std::string_view bytes, Channels channels, bool apply_exif) {
  const auto png = png_size(bytes);
  const auto size = png ? png : jpeg_size(bytes);
  if (!size) return {std::nullopt, "not a PNG or JPEG file"};
  if (size->width <= 0 || size->height <= 0 || size->width * size->height > kMaxPixels)
    return {std::nullopt,
            cat("its header claims ", size->width, "x", size->height, " pixels, more than the limit of 2^26")};
  // The reader below takes colours and alpha from the file; OpenCV's way with EXIF drops alpha and mixes grey itself.
  if (png && (!apply_exif || channels == Channels::Rgb))
    if (auto image = png::decode(bytes, kMaxPixels)) return {with_channels(std::move(*image), channels), ""};
  // Grey is mixed by OpenCV, and with EXIF asked for it stores grey pictures as colours.
  if (!png && channels != Channels::Grey && !(apply_exif && channels == Channels::AsStored))
    if (auto image = jpeg::decode(bytes, kMaxPixels)) return {with_channels(std::move(*image), channels), ""};
  try {
    const cv::Mat raw(1, static_cast<int>(bytes.size()), CV_8U, const_cast<char*>(bytes.data()));
    int mode = cv::IMREAD_UNCHANGED;
    if (apply_exif) mode = channels == Channels::Grey ? cv::IMREAD_GRAYSCALE : cv::IMREAD_COLOR;
    cv::Mat mat = cv::imdecode(raw, mode);
    if (mat.empty()) return {std::nullopt, "its data are damaged"};
    if (mat.depth() == CV_16U) mat.convertTo(mat, CV_8U, 1.0 / 257.0);
    if (mat.depth() != CV_8U) return {std::nullopt, "its samples are neither 8 nor 16 bit"};
    return {copy_of(with_channels(mat, channels)), ""};
  } catch (const cv::Exception& error) {
    return {std::nullopt, error.err};
  }
}

Decoded decode_region(std::string_view bytes, int height, int width, const Region& region) {
  DIVERGEN_CHECK(region.x >= 0 && region.y >= 0 && region.width > 0 && region.height > 0 &&
                 region.width <= width - region.x && region.height <= height - region.y);
  if (std::int64_t{height} * width <= kMaxPixels)
    if (auto part = jpeg::decode_region(bytes, height, width, region))
      return {with_channels(std::move(*part), Channels::Rgb), ""};
  Decoded whole = decode(bytes);
  if (!whole.image) return whole;
  if (whole.image->height != height || whole.image->width != width)
    return {std::nullopt,
            cat("it has ", whole.image->width, "x", whole.image->height, " pixels, not ", width, "x", height)};
  return {crop(*whole.image, region.x, region.y, region.width, region.height), ""};
}

std::string encode_png(const Image& image, int level) { return png::encode(image, level); }
std::string encode_jpeg(const Image& image, int quality) {
  return encode(image, ".jpg", {cv::IMWRITE_JPEG_QUALITY, quality});
}

Image to_rgb(const Image& image) {
  if (image.channels == 3) return image;
  Image out(image.height, image.width, 3);
  const int step = image.channels, blue = step == 1 ? 0 : 2, green = step == 1 ? 0 : 1;
  const std::size_t count = image.pixels.size() / static_cast<std::size_t>(step);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* source = image.pixels.data() + i * static_cast<std::size_t>(step);
    out.pixels[3 * i] = source[0];
    out.pixels[3 * i + 1] = source[green];
    out.pixels[3 * i + 2] = source[blue];
  }
  return out;
}

Image crop(const Image& image, int x, int y, int width, int height) {
  DIVERGEN_CHECK(x >= 0 && y >= 0 && width >= 0 && height >= 0 && x + width <= image.width &&
                 y + height <= image.height);
  Image out(height, width, image.channels);
  const std::size_t row = static_cast<std::size_t>(width) * static_cast<std::size_t>(image.channels);
  for (int i = 0; i < height && row > 0; ++i) std::memcpy(out.at(i, 0), image.at(y + i, x), row);
  return out;
}

namespace {

/// The size of a pixel as a constant: a copy of it is an instruction then.
template <int kChannels>
void mirror_row(const std::uint8_t* from, std::uint8_t* to, int width) {
  const std::uint8_t* pixel = from + static_cast<std::ptrdiff_t>(width) * kChannels;
  for (int x = 0; x < width; ++x, to += kChannels) {
    pixel -= kChannels;
    std::memcpy(to, pixel, kChannels);
  }
}

}  // namespace

Image flip_horizontal(const Image& image) {
  using Row = void (*)(const std::uint8_t*, std::uint8_t*, int);
  static constexpr Row kRows[] = {mirror_row<1>, mirror_row<2>, mirror_row<3>, mirror_row<4>};
  Image out(image.height, image.width, image.channels);
  if (image.empty()) return out;
  DIVERGEN_CHECK(image.channels >= 1 && image.channels <= 4, image.channels);
  for (int y = 0; y < image.height; ++y) kRows[image.channels - 1](image.at(y, 0), out.at(y, 0), image.width);
  return out;
}

}  // namespace divergen::image
