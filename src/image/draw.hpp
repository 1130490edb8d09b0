#pragma once
// Marks on pictures for people: outlines, boxes, words. Pictures have three channels.

#include <array>
#include <string>

#include "image/image.hpp"

namespace divergen::image {

using Colour = std::array<std::uint8_t, 3>;  // RGB

/// Colours the pixels of a mask (nonzero, one channel, its top left pixel at (x, y) of the picture) that have a
/// neighbour outside it.
void draw_outline(Image& picture, const Image& mask, int x, int y, Colour colour);

/// A frame of one pixel; parts outside the picture are left out.
void draw_box(Image& picture, int x0, int y0, int x1, int y1, Colour colour);

/// A line of text on a dark ground, its bottom left corner at (x, y), moved to lie inside the picture. ASCII.
void draw_text(Image& picture, const std::string& text, int x, int y, Colour colour);

/// Every pixel as factor x factor pixels, so that marks on small pictures stay small beside what they mark.
Image enlarge(const Image& image, int factor);

/// Pictures of equal channels beside each other, with `gap` white columns between them.
Image beside(const Image& left, const Image& right, int gap);

}  // namespace divergen::image
