#include "nn/lr_schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace divergen::nn {

double WarmupCosine::at(std::int64_t iteration) const {
  const auto cosine = [](double x) { return 0.5 * (1.0 + std::cos(std::numbers::pi * x)); };
  const double warm = std::min(static_cast<double>(warmup) / static_cast<double>(iterations), 1.0);
  const double x = static_cast<double>(iteration) / static_cast<double>(iterations);
  if (x >= warm) return base_lr * cosine(x);
  const double end = cosine(warm);
  return base_lr * (warmup_factor + (end - warmup_factor) * (x / warm));
}

}  // namespace divergen::nn
