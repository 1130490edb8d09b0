#pragma once
// The stage "retry": items that failed or were rejected get further samples, round by round, until every planned item
// has an instance in the library or plan.retry_rejected samples were tried in vain (plan/retries.hpp).
//
// A round goes through the same stages as the plan (or the fused one), which keep what stands and make only what was
// added; then verdicts and library are made anew over everything. One launch for all rounds; killed at any moment it
// goes on with the round in work.

#include "stages/common/context.hpp"

namespace divergen::stages {

/// Retries that were rejected themselves, in the stage's record.
inline constexpr const char* kRetriesInVain = "rejected_again";

/// Collective. The record "retry": items = retries that were made, figures rounds, wanted (planned items without an
/// instance of their own sample) and met (how many of them a retry stands in for); seconds are those of planning, since
/// the stages count their own. Throws as the stages do.
void run_retry(const RunContext& context);

}  // namespace divergen::stages
