#include "stages/scaling/charts.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/page.hpp"
#include "stages/report/svg.hpp"

namespace divergen::stages::scaling {
namespace {

using report::Anchor;
using report::Point;
using report::Scale;
using report::Svg;

constexpr double kWidth = 494, kHeight = 372, kLeft = 58, kRight = 14, kTop = 12, kBottom = kHeight - 46;

/// Colour class of each share.
constexpr std::array<const char*, kTimeShares> kColours{"fill-without", "fill-frequent", "fill-kept",
                                                        "fill-extra",   "fill-common",   "fill-rare",
                                                        "fill-out2",    "down",          "fill-out4"};

std::string short_number(double value) {
  if (value >= 1e6) return cat(fixed(value / 1e6, 0), " M");
  if (value >= 1e3) return cat(fixed(value / 1e3, 0), " k");
  return value < 1 ? cat(value) : fixed(value, 0);
}

/// A logarithmic axis that begins and ends at ticks: powers of two over short ranges, of ten over long ones.
struct LogAxis {
  double low, high;
  std::vector<double> ticks;

  LogAxis(double from, double to) {
    const double base = to / from > 300 ? 10 : 2;
    const auto power = [&](double value, bool up) {
      const double exponent = std::log(value) / std::log(base);
      return up ? std::ceil(exponent - 1e-9) : std::floor(exponent + 1e-9);
    };
    const double first = power(from, false), last = std::max(first + 1, power(to, true));
    for (double e = first; e <= last; ++e) ticks.push_back(std::pow(base, e));
    low = ticks.front();
    high = ticks.back();
  }
  Scale scale(double start, double end) const { return {std::log(low), std::log(high), start, end}; }
};

std::vector<const ScalingPoint*> drawn(const ScalingResults& results, bool simulated) {
  std::vector<const ScalingPoint*> out;
  for (const ScalingPoint& p : results.points)
    if (p.is_simulated == simulated && p.rate.median > 0) out.push_back(&p);
  return out;
}

LogAxis ranks_axis(const ScalingResults& results) {
  double low = 1e300, high = 0;
  for (const bool simulated : {false, true})
    for (const ScalingPoint* p : drawn(results, simulated)) {
      low = std::min(low, static_cast<double>(p->ranks));
      high = std::max(high, static_cast<double>(p->ranks));
    }
  return {low, high};
}

void draw_ranks_axis(Svg& svg, const LogAxis& axis, const Scale& x) {
  for (const double tick : axis.ticks) {
    svg.line(x(std::log(tick)), kTop, x(std::log(tick)), kBottom, "grid");
    svg.text(x(std::log(tick)), kBottom + 17, short_number(tick), "tick", Anchor::Middle);
  }
  svg.text((kLeft + kWidth - kRight) / 2, kBottom + 38, "MPI ranks", "tick", Anchor::Middle);
}

/// Lines, ranges and dots of one quantity of all points. `of`: its spread.
template <class Of>
void draw_series(Svg& svg, const ScalingResults& results, const Scale& x, const Of& of,
                 const std::function<double(double)>& y, const std::string& words) {
  const auto measured = drawn(results, false), simulated = drawn(results, true);
  const auto at = [&](const ScalingPoint* p, double value) {
    return Point{x(std::log(static_cast<double>(p->ranks))), y(value)};
  };
  std::vector<Point> line, dashed;
  for (const ScalingPoint* p : measured) line.push_back(at(p, of(*p).median));
  for (const ScalingPoint* p : simulated) dashed.push_back(at(p, of(*p).median));
  if (!line.empty() && !dashed.empty() && dashed.front().first > line.back().first)
    dashed.insert(dashed.begin(), line.back());
  svg.polyline(dashed, "bound");
  svg.polyline(line, "smooth s1");
  for (const ScalingPoint* p : measured) {
    const Point low = at(p, of(*p).low), high = at(p, of(*p).high);
    svg.line(low.first, low.second, high.first, high.second, "axis");
    for (const Point& end : {low, high}) svg.line(end.first - 3, end.second, end.first + 3, end.second, "axis");
  }
  const auto tip = [&](const ScalingPoint* p) {
    const Spread s = of(*p);
    return cat(p->ranks, " ranks: ", words, " ", fixed(s.median, 3),
               p->is_simulated ? " (simulated)"
                               : cat(" (", fixed(s.low, 3), " to ", fixed(s.high, 3), " in ", p->runs, " runs)"));
  };
  for (const ScalingPoint* p : simulated) {
    const Point c = at(p, of(*p).median);
    svg.circle(c.first, c.second, 5, "dot-hollow", tip(p));
  }
  for (const ScalingPoint* p : measured) {
    const Point c = at(p, of(*p).median);
    svg.circle(c.first, c.second, 5, "dot-full", tip(p));
  }
}

}  // namespace

std::string speed_up_chart(const ScalingResults& results) {
  if (results.base_ranks == 0) return "";
  const LogAxis ranks = ranks_axis(results);
  double low = 1e300, high = 0;
  for (const ScalingPoint& p : results.points) {
    if (p.rate.median <= 0) continue;
    low = std::min(low, p.speed_up.low);
    high = std::max(high, p.speed_up.high);
  }
  const LogAxis speed(std::min(low, static_cast<double>(results.base_ranks)), std::max(high, ranks.high));
  Svg svg(kWidth, kHeight, "Speed-up over the number of ranks, both logarithmic");
  const Scale x = ranks.scale(kLeft, kWidth - kRight), y = speed.scale(kBottom, kTop);
  draw_ranks_axis(svg, ranks, x);
  for (const double tick : speed.ticks) {
    svg.line(kLeft, y(std::log(tick)), kWidth - kRight, y(std::log(tick)), "grid");
    svg.text(kLeft - 8, y(std::log(tick)) + 4, short_number(tick), "tick", Anchor::End);
  }
  svg.text_upwards(14, (kTop + kBottom) / 2,
                   cat("speed-up over ", results.base_ranks, results.base_ranks == 1 ? " rank" : " ranks"), "tick",
                   Anchor::Middle);
  const double from = std::max(ranks.low, speed.low), to = std::min(ranks.high, speed.high);
  svg.line(x(std::log(from)), y(std::log(from)), x(std::log(to)), y(std::log(to)), "link");
  svg.text(x(std::log(to)) - 10, y(std::log(to)) + 16, "ideal", "tick", Anchor::End);
  draw_series(
      svg, results, x, [](const ScalingPoint& p) { return p.speed_up; },
      [&](double value) { return y(std::log(std::max(value, 1e-9))); }, "speed-up");
  return svg.str();
}

std::string efficiency_chart(const ScalingResults& results) {
  if (results.base_ranks == 0) return "";
  const LogAxis ranks = ranks_axis(results);
  double high = 1;
  for (const ScalingPoint& p : results.points)
    if (p.rate.median > 0) high = std::max({high, p.efficiency.high, p.work_efficiency});
  const double most = high <= 1.1 ? 1.1 : 0.2 * std::ceil(high / 0.2 + 0.1);
  Svg svg(kWidth, kHeight, "Parallel efficiency over the number of ranks");
  const Scale x = ranks.scale(kLeft, kWidth - kRight), y{0, most, kBottom, kTop};
  draw_ranks_axis(svg, ranks, x);
  for (double tick = 0; tick <= most + 1e-9; tick += 0.2) {
    svg.line(kLeft, y(tick), kWidth - kRight, y(tick), "grid");
    svg.text(kLeft - 8, y(tick) + 4, cat(fixed(100 * tick, 0), " %"), "tick", Anchor::End);
  }
  svg.text_upwards(14, (kTop + kBottom) / 2, "efficiency", "tick", Anchor::Middle);
  svg.line(kLeft, y(1), kWidth - kRight, y(1), "link");
  std::vector<Point> work;
  for (const ScalingPoint* p : drawn(results, false))
    work.emplace_back(x(std::log(static_cast<double>(p->ranks))), y(p->work_efficiency));
  svg.polyline(work, "smooth s2");
  draw_series(
      svg, results, x, [](const ScalingPoint& p) { return p.efficiency; }, y, "efficiency");
  return svg.str();
}

std::string share_bars(const ScalingResults& results) {
  std::vector<const ScalingPoint*> points = drawn(results, false);
  for (const ScalingPoint* p : drawn(results, true)) points.push_back(p);
  if (points.empty()) return "";
  const double row = 30, left = 148, width = 1024, right = 96;
  const double bottom = 8 + row * static_cast<double>(points.size());
  Svg svg(width, bottom + 24, "Where the time of a rank goes, for each number of ranks");
  const Scale x{0, 1, left, width - right};
  for (double tick = 0; tick <= 1.001; tick += 0.2) {
    svg.line(x(tick), 4, x(tick), bottom, "grid");
    svg.text(x(tick), bottom + 17, cat(fixed(100 * tick, 0), " %"), "tick", Anchor::Middle);
  }
  double top = 8;
  for (const ScalingPoint* p : points) {
    double all = 0, at = 0;
    for (const double s : p->shares) all += s;
    svg.text(left - 12, top + 16,
             cat(p->ranks, p->ranks == 1 ? " rank" : " ranks", p->is_simulated ? ", simulated" : ""),
             p->is_simulated ? "tick" : "label", Anchor::End);
    for (std::size_t i = 0; i < kTimeShares && all > 0; ++i) {
      const double part = p->shares[i] / all;
      if (part <= 0) continue;
      const std::string percent = cat(fixed(100 * part, 1), " %");
      svg.rect(x(at), top, std::max(0.4, x(at + part) - x(at) - 1), row - 8, kColours[i],
               cat(kTimeShareNames[i].text, ": ", percent, ", ", human_seconds(p->shares[i])));
      if (x(at + part) - x(at) > 52) svg.text(x(at) + 8, top + 15.5, percent, "on-fill");
      at += part;
    }
    svg.text(width - 4, top + 16, human_seconds(p->seconds.median), "tick", Anchor::End);
    top += row;
  }
  return svg.str();
}

std::string share_legend(const ScalingResults& results) {
  std::string out;
  for (std::size_t i = 0; i < kTimeShares; ++i) {
    const bool is_there = std::any_of(results.points.begin(), results.points.end(),
                                      [&](const ScalingPoint& p) { return p.shares[i] > 0; });
    if (is_there) out += report::swatch(kColours[i], kTimeShareNames[i].text);
  }
  return out;
}

}  // namespace divergen::stages::scaling
