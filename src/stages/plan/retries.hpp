#pragma once
// Further samples of items whose pictures failed or were rejected: what the plan grows by.
//
// The plan itself stays frozen. Rounds of retries stand in "plan.retries.h5" (format of the plan, with a column
// `round`) and follow it: each round holds, in the order of (generator, category, prompt, sample), one new sample of
// every item that is not in the library and has had fewer than plan.retry_rejected further samples. What a round holds
// is a function of the plan and the results before it, never of ranks or order.
//
// A retry is an item like any other: its id and its seed come from its sample index, which tells the attempt too
// (store::attempt_of): sample s at attempt a has the index s + a * 2^20.

#include <cstdint>
#include <vector>

#include "stages/common/run_directory.hpp"
#include "stages/plan/plan.hpp"

namespace divergen::stages {

/// The plan of a run and all that was added to it. Throws Error(Data) when a file is damaged, or the retries belong to
/// another plan.
Plan read_plan(const RunDirectory& dir);

/// Adds a round: a further sample of each row that `is_wanting` (not in the library) if it is the last attempt of its
/// sample so far and has had fewer than `most` retries. Returns how many rows were added; with none, no round is.
/// `seed` is the run's. Throws Error(Config) when a prompt has more samples than indices leave room for.
std::size_t add_retries(Plan& plan, std::uint64_t seed, const std::vector<std::uint8_t>& is_wanting, std::int64_t most);

/// Writes the rounds after the first. Throws Error(NoSpace | Io).
void write_retries(const Plan& plan, const RunDirectory& dir);

}  // namespace divergen::stages
