#pragma once
// The stage "fused": generate, annotate, filter and pool in one launch, without pictures and masks on the disk
// (run.fused = true). The library is the staged one, record for record.
//
// Passes, each shared by the ranks and resumable on its own:
//   filter.reference   mean CLIP features of real crops, as in the staged filter
//   fused              shard by shard: pictures -> masks -> scores -> cut-outs (pool/cutouts.hpp), in memory, in the
//                      same batches as the staged stages make them, so that the bits are the same
//   filter             verdicts, which need the best score of whole categories
//   pool               the library
// A rank holds three models at a time: the generator, the annotator and CLIP.

#include "stages/common/context.hpp"

namespace divergen::stages {

inline constexpr const char* kFusedStage = "fused";

/// Collective. The record "fused" tells how its time divides (figures generate_share, annotate_share, score_share);
/// what failed or could not be read is counted in it. Throws as the four stages do.
void run_fused(const RunContext& context);

}  // namespace divergen::stages
