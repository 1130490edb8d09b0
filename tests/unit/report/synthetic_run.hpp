#pragma once
// A run directory of a small study that never ran: pictures from the mini world's own drawing code, numbers from
// formulas, so that tests know every fact a report must state.

#include "config/settings.hpp"
#include "stages/common/run_directory.hpp"

namespace divergen::stages::testing {

struct SyntheticRun {
  RunDirectory dir;
  config::RunConfig config;
};

/// What stands in the directory: every part is optional, as in a run that is not finished.
struct Parts {
  bool generated = true, annotated = true, filtered = true, pooled = true;
  bool baseline = true, divergen = true;  // trained and evaluated
};

inline constexpr int kCategories = 12, kPicturesEach = 8, kShardItems = 16;

/// Makes the directory anew. Of each category's pictures, number 6 is rejected as unlike_real_crops and number 7 as
/// mask_too_small.
SyntheticRun make_synthetic_run(const Path& folder, const Parts& parts = {});

}  // namespace divergen::stages::testing
