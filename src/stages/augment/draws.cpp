#include "stages/augment/draws.hpp"

#include <cmath>
#include <numeric>

#include "base/error.hpp"

namespace divergen::stages {

double RandomDraws::uniform(std::string_view, double low, double high) { return rng_.uniform(low, high); }
double RandomDraws::normal(std::string_view) { return rng_.normal(); }

std::int64_t RandomDraws::integer(std::string_view meaning, double low, double high) {
  const auto first = static_cast<std::int64_t>(low), last = static_cast<std::int64_t>(high);
  DIVERGEN_CHECK(first < last, meaning, ": [", low, ", ", high, ")");
  return rng_.range(first, last);
}

std::vector<std::size_t> RandomDraws::choose(std::string_view meaning, std::size_t from, std::size_t count) {
  DIVERGEN_CHECK(count <= from, meaning, ": ", count, " of ", from);
  std::vector<std::size_t> out(from);
  std::iota(out.begin(), out.end(), std::size_t{0});
  for (std::size_t i = 0; i < count; ++i) std::swap(out[i], out[i + rng_.below(from - i)]);
  out.resize(count);
  return out;
}

std::size_t RandomDraws::pick(std::string_view meaning, std::span<const std::string> options) {
  DIVERGEN_CHECK(!options.empty(), meaning);
  return rng_.below(options.size());
}

}  // namespace divergen::stages
