#pragma once
// The stage "filter": which of the generated instances are good enough.
//
// Three passes, each shared by the ranks and resumable on its own:
//   filter.reference   mean CLIP features of the real crops of each category   (reference.hpp)
//   filter.scores      similarity, CLIP score and area of each item            (scores.hpp)
//   filter             verdicts, "filter/shard-000000.h5"                      (verdict.hpp)
// Verdicts need the best CLIP score of a whole category, so they wait for all scores. Other bounds in the
// configuration make the verdicts again, not the scores.

#include "stages/common/context.hpp"

namespace divergen::stages {

/// Collective. Throws Error(Config | Io | Data) before work starts when CLIP, the training annotations or pictures are
/// missing or "annotate" is not complete; Error(Stopped).
void run_filter(const RunContext& context);

}  // namespace divergen::stages
