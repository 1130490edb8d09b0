#include "stages/report/charts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/facts.hpp"
#include "stages/report/svg.hpp"

namespace divergen::stages::report {
namespace {

double step_of(const std::vector<double>& ticks) { return ticks.size() > 1 ? ticks[1] - ticks[0] : 0; }

std::string shortened(const std::string& text, std::size_t most) {
  return text.size() <= most ? text : text.substr(0, most - 1) + "…";
}

/// Centred exponential smoothing, forwards and backwards, so that the curve is not late; gaps stay gaps.
std::vector<double> smoothed(const std::vector<double>& values) {
  const double keep = std::clamp(1.0 - 12.0 / std::max<double>(12.0, static_cast<double>(values.size())), 0.0, 0.97);
  const auto pass = [&](auto first, auto last) {
    double state = std::nan("");
    for (; first != last; ++first) {
      if (std::isnan(*first)) continue;
      state = std::isnan(state) ? *first : keep * state + (1 - keep) * *first;
      *first = state;
    }
  };
  std::vector<double> forward = values, backward = values;
  pass(forward.begin(), forward.end());
  pass(backward.rbegin(), backward.rend());
  for (std::size_t i = 0; i < values.size(); ++i) forward[i] = 0.5 * (forward[i] + backward[i]);
  return forward;
}

/// At most `most` points, each the mean of its bin.
std::vector<Point> thinned(const std::vector<double>& x, const std::vector<double>& y, const Scale& sx, const Scale& sy,
                           std::size_t most) {
  std::vector<Point> points;
  const std::size_t bin = std::max<std::size_t>(1, (y.size() + most - 1) / most);
  for (std::size_t i = 0; i < y.size(); i += bin) {
    double sum_x = 0, sum_y = 0;
    std::size_t n = 0;
    for (std::size_t j = i; j < std::min(i + bin, y.size()); ++j)
      if (std::isfinite(y[j]) && std::isfinite(x[j])) {
        sum_x += x[j];
        sum_y += y[j];
        ++n;
      }
    if (n > 0) points.push_back({sx(sum_x / static_cast<double>(n)), sy(sum_y / static_cast<double>(n))});
  }
  return points;
}

}  // namespace

std::string dot_chart(const std::string& title, const std::vector<DotRow>& rows, const std::vector<bool>& hollow,
                      double most) {
  const double row_height = 34, left = 86, width = 494, right = 66;
  const double bottom = 14 + row_height * static_cast<double>(rows.size());
  Svg svg(width, bottom + 30, title);
  const auto ticks = nice_ticks(0, 100 * most, 5);
  const Scale x{0, std::max(100 * most, 1e-6), left, width - right};
  for (double t : ticks) {
    svg.line(x(t), 8, x(t), bottom, "grid");
    svg.text(x(t), bottom + 16, tick_label(t, step_of(ticks)), "tick", Anchor::Middle);
  }
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const double y = 8 + row_height * (static_cast<double>(r) + 0.5);
    svg.text(left - 14, y + 4, rows[r].label, "label", Anchor::End);
    double low = 2, high = -1, before = -1, after = -1;
    for (std::size_t e = 0; e < rows[r].values.size(); ++e) {
      const double v = rows[r].values[e];
      if (v < 0) continue;
      low = std::min(low, v);
      high = std::max(high, v);
      (hollow[e] ? before : after) = v;
    }
    if (high > low) svg.line(x(100 * low), y, x(100 * high), y, "link");
    for (std::size_t e = 0; e < rows[r].values.size(); ++e)
      if (const double v = rows[r].values[e]; v >= 0)
        svg.circle(x(100 * v), y, 6, hollow[e] ? "dot-hollow" : "dot-full", percent(v));
    if (before >= 0 && after >= 0) svg.text(width - 4, y + 4, gain(before, after), "gain", Anchor::End);
  }
  return svg.str();
}

std::string gain_bars(const std::string& title, const std::vector<Bar>& bars, double reach) {
  const double row_height = 19, left = 118, width = 330, right = 48;
  const double bottom = 6 + row_height * static_cast<double>(bars.size());
  Svg svg(width, bottom + 6, title);
  const Scale x{-reach, reach, left, width - right};
  svg.line(x(0), 2, x(0), bottom, "axis");
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double y = 4 + row_height * static_cast<double>(i), v = bars[i].value;
    svg.text(left - 8, y + 13, shortened(bars[i].label, 17), "label small", Anchor::End);
    svg.rect(std::min(x(0), x(v)), y + 3, std::abs(x(v) - x(0)), row_height - 6, v < 0 ? "down" : bars[i].css,
             bars[i].tip, 2);
    svg.text(width - 2, y + 13, gain(0.5, 0.5 + v / 100), "tick", Anchor::End);
  }
  return svg.str();
}

std::string column_chart(const std::string& title, const std::vector<Bar>& bars) {
  const bool is_labelled = bars.size() <= 70;
  const double left = 44, width = 1024, height = 180, bottom = height + 10, foot = is_labelled ? 108 : 18;
  Svg svg(width, bottom + foot, title);
  double most = 1;
  for (const Bar& bar : bars) most = std::max(most, bar.value);
  const auto ticks = nice_ticks(0, most, 4);
  const Scale y{0, most, bottom, 12};
  for (double t : ticks) {
    svg.line(left, y(t), width, y(t), "grid");
    svg.text(left - 8, y(t) + 4, tick_label(t, step_of(ticks)), "tick", Anchor::End);
  }
  const double pitch = (width - left) / std::max<double>(1, static_cast<double>(bars.size()));
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double x = left + pitch * (static_cast<double>(i) + 0.5), w = std::min(22.0, std::max(0.6, 0.68 * pitch));
    svg.rect(x - w / 2, y(bars[i].value), w, bottom - y(bars[i].value), bars[i].css, bars[i].tip, w > 6 ? 1.5 : 0);
    if (is_labelled) svg.text_upwards(x + 4, bottom + 8, shortened(bars[i].label, 18), "label small", Anchor::End);
  }
  svg.line(left, bottom, width, bottom, "axis");
  return svg.str();
}

std::string line_chart(const std::string& title, const std::string& x_name, const std::vector<Curve>& curves,
                       double width, double height) {
  const bool is_tall = height > 200;
  const double left = 46, bottom = height - (is_tall ? 44 : 30), top = 12;
  double x_low = std::numeric_limits<double>::infinity(), x_high = -x_low, y_low = x_low, y_high = -x_low;
  for (const Curve& c : curves) {
    const std::vector<double> smooth = c.is_exact ? c.y : smoothed(c.y);
    for (std::size_t i = 0; i < c.y.size(); ++i) {
      if (!std::isfinite(c.x[i]) || !std::isfinite(c.y[i])) continue;
      x_low = std::min(x_low, c.x[i]);
      x_high = std::max(x_high, c.x[i]);
      // The axis follows the smoothed curve and clips the noise of the first steps.
      y_low = std::min(y_low, smooth[i]);
      y_high = std::max(y_high, smooth[i]);
    }
  }
  Svg svg(width, height, title);
  if (!std::isfinite(x_low)) return svg.str();
  y_low = std::min(0.0, y_low);
  y_high = y_high > y_low ? y_low + 1.08 * (y_high - y_low) : y_low + 1;
  const Scale x{x_low, x_high, left, width - 10}, y{y_low, y_high, bottom, top};
  const auto y_ticks = nice_ticks(y_low, y_high, is_tall ? 5 : 3);
  const auto x_ticks = nice_ticks(x_low, x_high, width > 500 ? 8 : 3);
  for (double t : y_ticks) {
    svg.line(left, y(t), width - 10, y(t), "grid");
    svg.text(left - 8, y(t) + 4, tick_label(t, step_of(y_ticks)), "tick", Anchor::End);
  }
  for (double t : x_ticks) svg.text(x(t), bottom + 17, tick_label(t, step_of(x_ticks)), "tick", Anchor::Middle);
  if (is_tall) svg.text((left + width - 10) / 2, bottom + 36, x_name, "tick", Anchor::Middle);
  const auto inside = [&](std::vector<Point> points) {
    for (auto& p : points) p.second = std::clamp(p.second, top, bottom);
    return points;
  };
  for (const Curve& c : curves)
    if (!c.is_exact) svg.polyline(inside(thinned(c.x, c.y, x, y, 300)), "raw " + c.css);
  for (const Curve& c : curves)
    svg.polyline(inside(thinned(c.x, c.is_exact ? c.y : smoothed(c.y), x, y, 200)), "smooth " + c.css);
  return svg.str();
}

std::string histogram(const std::string& title, const std::vector<float>& kept, const std::vector<float>& rejected,
                      double bound) {
  const double left = 40, width = 494, height = 200, bottom = height - 28;
  Svg svg(width, height, title);
  if (kept.empty() && rejected.empty()) return svg.str();
  float low = std::numeric_limits<float>::infinity(), high = -low;
  for (const auto* values : {&kept, &rejected})
    for (float v : *values) {
      low = std::min(low, v);
      high = std::max(high, v);
    }
  if (std::isfinite(bound)) {
    low = std::min(low, static_cast<float>(bound));
    high = std::max(high, static_cast<float>(bound));
  }
  constexpr std::size_t kBins = 32;
  const double span = std::max(1e-6, static_cast<double>(high) - low);
  std::vector<std::array<double, 2>> bins(kBins, {0, 0});
  const auto count = [&](const std::vector<float>& values, std::size_t which) {
    for (float v : values) ++bins[std::min(kBins - 1, static_cast<std::size_t>((v - low) / span * kBins))][which];
  };
  count(kept, 0);
  count(rejected, 1);
  double most = 1;
  for (const auto& b : bins) most = std::max(most, b[0] + b[1]);
  const Scale x{low, low + span, left, width - 12}, y{0, most, bottom, 10};
  const auto y_ticks = nice_ticks(0, most, 4), x_ticks = nice_ticks(low, low + span, 6);
  for (double t : y_ticks) {
    svg.line(left, y(t), width - 12, y(t), "grid");
    svg.text(left - 8, y(t) + 4, tick_label(t, step_of(y_ticks)), "tick", Anchor::End);
  }
  for (double t : x_ticks) svg.text(x(t), bottom + 17, tick_label(t, step_of(x_ticks)), "tick", Anchor::Middle);
  const double w = (width - 12 - left) / kBins;
  for (std::size_t i = 0; i < kBins; ++i) {
    const double at = left + w * static_cast<double>(i);
    if (bins[i][0] > 0) svg.rect(at + 0.5, y(bins[i][0]), w - 1, bottom - y(bins[i][0]), "fill-kept");
    if (bins[i][1] > 0)
      svg.rect(at + 0.5, y(bins[i][0] + bins[i][1]), w - 1, y(bins[i][0]) - y(bins[i][0] + bins[i][1]), "fill-out0");
  }
  svg.line(left, bottom, width - 12, bottom, "axis");
  if (std::isfinite(bound)) {
    svg.line(x(bound), 4, x(bound), bottom, "bound");
    svg.text(x(bound) + 5, 12, cat("bound ", fixed(bound, 2)), "tick");
  }
  return svg.str();
}

std::string share_bar(const std::string& title, const std::vector<Part>& parts) {
  const double width = 1024, height = 34;
  Svg svg(width, height, title);
  std::int64_t total = 0;
  for (const Part& part : parts) total += part.count;
  double x = 0;
  for (const Part& part : parts) {
    if (total == 0 || part.count == 0) continue;
    const double w = width * static_cast<double>(part.count) / static_cast<double>(total);
    const std::string share = cat(fixed(100.0 * static_cast<double>(part.count) / static_cast<double>(total), 1), " %");
    svg.rect(x, 0, std::max(1.0, w - 2), height, part.css,
             cat(part.label, ": ", with_thousands(part.count), ", ", share), 3);
    if (w > 70) svg.text(x + 10, 22, share, "on-fill");
    x += w;
  }
  return svg.str();
}

}  // namespace divergen::stages::report
