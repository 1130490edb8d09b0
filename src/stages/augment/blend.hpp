#pragma once
// The four ways in which the reference paints a pasted object (reference/semantics.md §7.7), with its arithmetic. All
// but Poisson touch only the object's surroundings.

#include <string>
#include <vector>

#include "stages/augment/types.hpp"

namespace divergen::stages {

enum class Blend { Basic, Alpha, Gaussian, Poisson };

/// "basic", "alpha", "gaussian", "poisson" (the reference's spelling "possion" too). Throws Error(Config).
Blend blend_of(const std::string& name);

/// Paints `patch` (RGB or RGBA, its top left pixel at (x, y) of the canvas, any part of it outside) onto the RGB
/// canvas:
///   Basic     the patch where the mask is set
///   Alpha     weighted by the patch's alpha / 255, in double (RGBA only; the mask is not used)
///   Gaussian  weighted by the mask after a 5 × 5 box blur, in float32; beyond the patch its colour is black
///   Poisson   gradients of the patch inside the mask, solved over the whole canvas (see poisson_solution)
/// Results are truncated to bytes.
void blend(image::Image& canvas, const image::Image& patch, int x, int y, const BoxMask& mask, Blend how);

/// Blend::Poisson alone.
void blend_poisson(image::Image& canvas, const image::Image& patch, int x, int y, const BoxMask& mask);

/// The reference's linear system: a row of the five-point Laplacian for each pixel of the mask (right side: Laplacian
/// of the patch, black beyond it) and for each pixel of the canvas's border (right side: the canvas, where the mask is
/// not set), identity for the others. H × W × 3 doubles, neither clipped nor rounded. Conjugate gradients to 1e-14.
std::vector<double> poisson_solution(const image::Image& canvas, const image::Image& patch, int x, int y,
                                     const BoxMask& mask);

}  // namespace divergen::stages
