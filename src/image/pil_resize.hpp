#pragma once
// Resizing with Pillow's arithmetic, bit for bit: antialiased filters in 8-bit fixed point.
// Rules: reference/generation.md §7 (support grows with the shrink factor; coefficients × 2^22; a horizontal pass, then
// a vertical one, each rounded and clipped to 8 bits).

#include "image/image.hpp"

namespace divergen::image {

enum class Filter { Nearest, Bilinear, Bicubic };

/// Any number of channels, each on its own (Pillow treats RGB so; RGBA is not premultiplied here).
Image pil_resize(const Image& image, int height, int width, Filter filter);

}  // namespace divergen::image
