#pragma once
// JPEG straight into RGB or grey, without the detours of a general decoder. Included by .cpp files of src/image and by
// tests.

#include <optional>
#include <string_view>

#include "image/image.hpp"

namespace divergen::image::jpeg {

/// Reads what training images nearly always are: 8-bit YCbCr as RGB, or grey as one channel, with libjpeg's default
/// arithmetic (the integer transform, smooth upsampling), which Pillow's and OpenCV's is too. Nothing for all else,
/// files at which libjpeg so much as warns and files with an EXIF orientation included: then a general decoder decides.
/// Pictures of more than `max_pixels` are not read. Never throws on bad bytes. Thread-safe.
std::optional<Image> decode(std::string_view bytes, std::int64_t max_pixels);

/// That part of what decode() gives for a picture of height × width, without the work of the rest: rows above are only
/// taken off the stream, those below not even looked at. Nothing where decode() would give nothing for what is looked
/// at, for a picture of another size, for a file that was cut off, and with a libjpeg that knows no regions. `region`
/// must not be empty, nor leave the picture.
std::optional<Image> decode_region(std::string_view bytes, int height, int width, const Region& region);

}  // namespace divergen::image::jpeg
