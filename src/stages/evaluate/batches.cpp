#include "stages/evaluate/batches.hpp"

#include <algorithm>
#include <map>

#include "base/error.hpp"

namespace divergen::stages {

std::array<std::int64_t, 2> shortest_edge(std::int64_t height, std::int64_t width, std::int64_t short_side,
                                          std::int64_t long_side) {
  DIVERGEN_CHECK(height > 0 && width > 0);
  const auto h = static_cast<double>(height), w = static_cast<double>(width), side = static_cast<double>(short_side);
  double scale = side / std::min(h, w);
  // The short side is set, not multiplied: scale * side may round to a neighbour.
  double new_h = height < width ? side : scale * h;
  double new_w = height < width ? scale * w : side;
  if (std::max(new_h, new_w) > static_cast<double>(long_side)) {
    scale = static_cast<double>(long_side) / std::max(new_h, new_w);
    new_h *= scale;
    new_w *= scale;
  }
  return {static_cast<std::int64_t>(new_h + 0.5), static_cast<std::int64_t>(new_w + 0.5)};
}

std::vector<std::vector<std::size_t>> make_batches(const lvis::Dataset& dataset,
                                                   const config::EvaluateSettings& settings) {
  constexpr std::int64_t kDivisor = 32;  // detector.md §3: size_divisibility of the FPN
  const auto padded = [](std::int64_t side) { return (side + kDivisor - 1) / kDivisor * kDivisor; };
  std::map<std::array<std::int64_t, 2>, std::vector<std::size_t>> open;
  std::vector<std::vector<std::size_t>> out;
  for (std::size_t i = 0; i < dataset.images.size(); ++i) {
    const auto& image = dataset.images[i];
    const auto [h, w] = shortest_edge(image.height, image.width, settings.short_side, settings.long_side);
    auto& batch = open[{padded(h), padded(w)}];
    batch.push_back(i);
    if (static_cast<std::int64_t>(batch.size()) == settings.batch) out.push_back(std::exchange(batch, {}));
  }
  for (auto& [size, batch] : open)
    if (!batch.empty()) out.push_back(std::move(batch));
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace divergen::stages
