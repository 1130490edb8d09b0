#pragma once
// Copy-paste of annotated objects from other training images (reference/semantics.md §7.8).

#include <vector>

#include "stages/augment/draws.hpp"
#include "stages/augment/types.hpp"

namespace divergen::stages {

struct SelfCopyRules {
  bool select = true;              // a random part of each source's objects; else all of them
  std::int64_t max_objects = 100;  // taken from a source: uniform in [0, min(n + 1, max_objects))
  bool drop_empty = true;          // objects that are wholly hidden (paste.hpp: PasteRules::drop_empty)
};

/// Pastes objects of the sources, each already through its own resize-crop, onto the sample's upper left corner. The
/// canvas grows to the furthest box of what is pasted. Where there are several sources, the later ones are pasted onto
/// the first before. Pasted objects keep the boxes that they had.
void self_copy(Sample& sample, std::vector<Sample> sources, const SelfCopyRules& rules, Draws& draws);

}  // namespace divergen::stages
