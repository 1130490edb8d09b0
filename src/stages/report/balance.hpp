#pragma once
// What became of every planned item, category by category: the counts of all stages side by side, so that it can be
// seen that nothing was lost and nothing doubled between plan and library.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "stages/common/run_directory.hpp"

namespace divergen::stages::report {

/// Reason of items that the filter kept and that gave no instance ("empty", "thin" or "unreadable" in the pool's
/// record).
inline constexpr const char* kNotCutOut = "not_cut_out";

struct Balance {
  std::int64_t planned = 0, retries = 0;         // items of the plan, and further samples of some of them
  std::int64_t failed = 0, made = 0;             // planned + retries = failed + made
  std::int64_t kept = 0;                         // in the library
  std::map<std::string, std::int64_t> rejected;  // made = kept + all of these

  /// Whether both sums are right.
  bool adds_up() const;
};

/// Of every category of the plan, by its id. Reads no pictures. Throws Error(Data | Io) when a stage is missing or its
/// shards do not belong to the plan.
std::map<std::int32_t, Balance> balance_of(const RunDirectory& dir);
/// The sum.
Balance total_of(const std::map<std::int32_t, Balance>& balances);

}  // namespace divergen::stages::report
