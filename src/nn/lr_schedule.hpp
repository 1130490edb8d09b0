#pragma once
// Learning-rate schedules as pure functions of the iteration: nothing to save, nothing to restore.

#include <cstdint>

namespace divergen::nn {

/// detectron2's WarmupCosineLR (reference/semantics.md §8.3): linear from `warmup_factor` to the cosine's value at the
/// end of the warm-up, then half a cosine to 0 at `iterations`.
struct WarmupCosine {
  double base_lr = 1e-4;
  std::int64_t iterations = 180000;
  std::int64_t warmup = 10000;
  double warmup_factor = 1e-4;

  double at(std::int64_t iteration) const;
};

}  // namespace divergen::nn
