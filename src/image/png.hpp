#pragma once
// PNG as this program writes it, several times faster than through libpng: filters chosen with vector instructions,
// then runs alone (zlib) or matches (libdeflate), whichever is smaller. Included by .cpp files of src/image and by
// tests.

#include <optional>
#include <string>
#include <string_view>

#include "image/image.hpp"

namespace divergen::image::png {

/// 8-bit grey, RGB or RGBA, one IDAT, each row with the filter whose residues have the least sum of magnitudes (as
/// libpng and Pillow choose). `level` 0..12 is libdeflate's effort. The same bytes for the same pixels and versions
/// of zlib and libdeflate, on any machine.
std::string encode(const Image& image, int level);

/// Reads what it is made for: 8-bit grey, RGB or RGBA without interlacing, palette, tRNS or eXIf, every checksum right,
/// data of exactly the size that the header says. Nothing for all else, damaged files included: then a general decoder
/// decides. Pictures of more than `max_pixels` are not read. Never throws on bad bytes.
std::optional<Image> decode(std::string_view bytes, std::int64_t max_pixels);

}  // namespace divergen::image::png
