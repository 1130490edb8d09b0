#include "models/diffusion/timesteps.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::models {
namespace {

struct NamedCounts {
  std::string name;
  std::vector<std::int64_t> counts;
};

/// The section counts that give DeepFloyd's published lists (deep-floyd/IF; the same as diffusers' fast27_timesteps and
/// so on, which the parity fixture holds in full).
const std::vector<NamedCounts>& lists() {
  static const std::vector<NamedCounts> all{
      {"fast27", {10, 10, 3, 2, 2}},
      {"smart27", {7, 4, 2, 1, 2, 4, 7}},
      {"smart50", {10, 6, 4, 3, 2, 2, 3, 4, 6, 10}},
      {"smart100", {1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10, 13}},
      {"smart185", {1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20}},
      {"super27", {1, 1, 1, 1, 1, 1, 1, 2, 5, 13}},
      {"super40", {2, 2, 2, 2, 2, 2, 3, 4, 6, 15}},
      {"super100", {4, 4, 6, 6, 8, 8, 10, 10, 14, 30}}};
  return all;
}

}  // namespace

std::vector<std::int64_t> sectioned_timesteps(std::int64_t train_steps, const std::vector<std::int64_t>& counts) {
  const auto sections = static_cast<std::int64_t>(counts.size());
  DIVERGEN_CHECK(sections > 0 && sections <= train_steps, sections, " sections of ", train_steps, " steps");
  std::vector<std::int64_t> out;
  std::int64_t start = 0;
  for (std::int64_t i = 0; i < sections; ++i) {
    const std::int64_t size = train_steps / sections + (i < train_steps % sections ? 1 : 0);
    const std::int64_t count = counts[static_cast<std::size_t>(i)];
    DIVERGEN_CHECK(count >= 0 && count <= size, count, " of ", size, " steps");
    const double stride = count <= 1 ? 1 : static_cast<double>(size - 1) / static_cast<double>(count - 1);
    double at = 0;
    for (std::int64_t k = 0; k < count; ++k, at += stride)
      out.push_back(start + static_cast<std::int64_t>(std::nearbyint(at)));
    start += size;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::int64_t> named_timesteps(const std::string& name) {
  for (const NamedCounts& list : lists())
    if (list.name == name) return sectioned_timesteps(1000, list.counts);
  const std::string near = nearest_word(name, timestep_list_names());
  fail(ErrorKind::Config,
       {"there is no such list of time steps", name, "",
        near.empty() ? "name one of DeepFloyd's, such as smart100" : cat("did you mean '", near, "'?")});
}

const std::vector<std::string>& timestep_list_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const NamedCounts& list : lists()) out.push_back(list.name);
    return out;
  }();
  return names;
}

}  // namespace divergen::models
