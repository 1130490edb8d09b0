#pragma once
// The stage "report": what a run found out, for machines (metrics.json) and for people (report.html).
//
// Both are made from what stands in the run directory, however far the run is; the page says what is missing. No MPI
// ranks, no LibTorch: the light driver makes them.

#include "config/settings.hpp"
#include "stages/common/run_directory.hpp"

namespace divergen::stages {

/// metrics.json (design §10): evaluations by name, the library, the stages, the configuration's hash. AP values are
/// fractions, or -1, as lvis-api gives them. "library" is null while there is none. Damaged inputs are left out, with
/// a warning. Throws Error(Io | NoSpace).
void write_metrics(const RunDirectory& dir, const config::RunConfig& config);

/// metrics.json, and report.html: one page that needs nothing beside it (no script, no font, no picture file), of at
/// most about 8 MB. Damaged inputs are named on the page. Throws Error(Io | NoSpace).
void write_report(const RunDirectory& dir, const config::RunConfig& config);

}  // namespace divergen::stages
