#pragma once
// DeepFloyd-IF's named lists of time steps: denser where a stage needs them.

#include <cstdint>
#include <string>
#include <vector>

namespace divergen::models {

/// [0, train_steps) in as many equal sections as there are counts, section i (from time 0 up) visited counts[i] times
/// at equal distances from its first to its last step; falling, as samplers go. Rounds half to even.
std::vector<std::int64_t> sectioned_timesteps(std::int64_t train_steps, const std::vector<std::int64_t>& counts);

/// The list of that name ("smart100") for a schedule of 1000 steps. Throws Error(Config) for another name.
std::vector<std::int64_t> named_timesteps(const std::string& name);
const std::vector<std::string>& timestep_list_names();

}  // namespace divergen::models
