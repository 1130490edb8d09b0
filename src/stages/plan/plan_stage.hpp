#pragma once
// The stage "plan": freezes the list of all items in plan.h5.

#include "stages/common/context.hpp"

namespace divergen::stages {

/// Collective; rank 0 does it. Does nothing when the same plan stands. A different plan takes the place of the old one
/// only while nothing has been generated for that: results of another plan would be lost. Throws Error(Config) then,
/// and what plan_input() and make_plan() throw.
void run_plan(const RunContext& context);

}  // namespace divergen::stages
