#pragma once
// Resizing with Pillow's arithmetic, bit for bit: antialiased filters in 8-bit fixed point.
// Rules: reference/generation.md §7 (support grows with the shrink factor; coefficients × 2^22; a horizontal pass, then
// a vertical one, each rounded and clipped to 8 bits).

#include "image/image.hpp"

namespace divergen::image {

enum class Filter { Nearest, Bilinear, Bicubic };

/// One to four channels, each on its own (Pillow treats RGB so; RGBA is not premultiplied here).
Image pil_resize(const Image& image, int height, int width, Filter filter);

/// The window_height × window_width pixels at row y, column x of what pil_resize gives, at the cost of the window
/// alone; mirrored after that with `flip`.
Image pil_resize_window(const Image& image, int height, int width, Filter filter, int y, int x, int window_height,
                        int window_width, bool flip = false);

}  // namespace divergen::image
