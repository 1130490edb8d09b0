#pragma once
// The page's plots. Each returns one SVG element; colours are the page's CSS classes.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "stages/common/run_directory.hpp"

namespace divergen::stages::report {

/// AP of several evaluations by group: one row a group, one dot an evaluation.
struct DotRow {
  std::string label;
  std::vector<double> values;  // fractions, one an evaluation; -1: none
};
/// `hollow[i]`: evaluation i is one without generated data. Values are shown as percent on an axis from 0 to `most`.
std::string dot_chart(const std::string& title, const std::vector<DotRow>& rows, const std::vector<bool>& hollow,
                      double most);

struct Bar {
  std::string label, tip;
  double value = 0;
  std::string css;  // colour class
};
/// Horizontal bars around zero, sorted by the caller. `reach`: the axis goes from -reach to +reach.
std::string gain_bars(const std::string& title, const std::vector<Bar>& bars, double reach);
/// Upright bars from zero; labels under the bars while there is room for them.
std::string column_chart(const std::string& title, const std::vector<Bar>& bars);

struct Curve {
  std::vector<double> x, y;  // NaN in y: a gap
  std::string css;           // "s0" ...
  bool is_exact = false;     // a schedule: nothing to smooth
};
/// Raw values faint, smoothed ones strong.
std::string line_chart(const std::string& title, const std::string& x_name, const std::vector<Curve>& curves,
                       double width, double height);

/// Two histograms over each other, and a bound between them (NaN: none).
std::string histogram(const std::string& title, const std::vector<float>& kept, const std::vector<float>& rejected,
                      double bound);

/// One bar in parts: what became of the items.
struct Part {
  std::string label, css;
  std::int64_t count = 0;
};
std::string share_bar(const std::string& title, const std::vector<Part>& parts);

/// When each rank worked in each stage. Long pauses (between jobs) are cut out and marked.
std::string timeline(const std::vector<StageRecord>& records);

}  // namespace divergen::stages::report
