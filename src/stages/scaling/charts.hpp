#pragma once
// Drawings of a scaling study, each one SVG element in the classes of the report's style sheet.

#include <string>

#include "stages/scaling/study.hpp"

namespace divergen::stages::scaling {

/// Speed-up over ranks, both axes logarithmic, with the ideal line; measured points with their range, simulated ones
/// hollow. Empty without points.
std::string speed_up_chart(const ScalingResults& results);
/// Efficiency over ranks: of the whole run, and of its work alone.
std::string efficiency_chart(const ScalingResults& results);
/// One bar a point: where the time of a rank goes.
std::string share_bars(const ScalingResults& results);
/// Legend of share_bars: those parts that some point has.
std::string share_legend(const ScalingResults& results);

}  // namespace divergen::stages::scaling
