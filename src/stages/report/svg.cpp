#include "stages/report/svg.hpp"

#include <cmath>
#include <cstdio>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::stages::report {
namespace {

/// At most two decimals: a hundredth of a unit is below what a screen shows.
std::string n(double value) {
  std::string text = fixed(value, 2);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string closed(std::string_view tag, std::string_view tip) {
  if (tip.empty()) return "/>";
  return cat("><title>", html_escape(tip), "</title></", tag, ">");
}

const char* name_of(Anchor anchor) {
  return anchor == Anchor::Start ? "start" : anchor == Anchor::Middle ? "middle" : "end";
}

}  // namespace

Svg::Svg(double width, double height, std::string_view label)
    : head_(cat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", n(width), " ", n(height),
                "\" style=\"max-width:", n(width), "px\" role=\"img\" aria-label=\"", html_escape(label), "\">")) {}

void Svg::line(double x1, double y1, double x2, double y2, std::string_view css) {
  body_ +=
      cat("<line x1=\"", n(x1), "\" y1=\"", n(y1), "\" x2=\"", n(x2), "\" y2=\"", n(y2), "\" class=\"", css, "\"/>");
}

void Svg::rect(double x, double y, double width, double height, std::string_view css, std::string_view tip,
               double radius) {
  body_ += cat("<rect x=\"", n(x), "\" y=\"", n(y), "\" width=\"", n(std::max(0.0, width)), "\" height=\"",
               n(std::max(0.0, height)), "\"", radius > 0 ? cat(" rx=\"", n(radius), "\"") : "", " class=\"", css, "\"",
               closed("rect", tip));
}

void Svg::circle(double x, double y, double radius, std::string_view css, std::string_view tip) {
  body_ += cat("<circle cx=\"", n(x), "\" cy=\"", n(y), "\" r=\"", n(radius), "\" class=\"", css, "\"",
               closed("circle", tip));
}

void Svg::polyline(const std::vector<Point>& points, std::string_view css) {
  if (points.size() < 2) return;
  body_ += "<polyline points=\"";
  for (const auto& [x, y] : points) body_ += cat(fixed(x, 1), ",", fixed(y, 1), " ");
  body_.back() = '"';
  body_ += cat(" class=\"", css, "\"/>");
}

void Svg::text(double x, double y, std::string_view words, std::string_view css, Anchor anchor) {
  body_ += cat("<text x=\"", n(x), "\" y=\"", n(y), "\" class=\"", css, "\" text-anchor=\"", name_of(anchor), "\">",
               html_escape(words), "</text>");
}

void Svg::text_upwards(double x, double y, std::string_view words, std::string_view css, Anchor anchor) {
  body_ += cat("<text transform=\"translate(", n(x), " ", n(y), ") rotate(-90)\" class=\"", css, "\" text-anchor=\"",
               name_of(anchor), "\">", html_escape(words), "</text>");
}

std::string Svg::str() const { return head_ + body_ + "</svg>"; }

std::vector<double> nice_ticks(double low, double high, int count) {
  if (!(high > low) || !std::isfinite(low) || !std::isfinite(high) || count < 1) return {low};
  const double raw = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (double factor : {1.0, 2.0, 5.0})  // the one nearest to what was asked for, by ratio
    if (std::abs(std::log(factor * power / raw)) < std::abs(std::log(step / raw))) step = factor * power;
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9);
  for (double k = first; k * step <= high + 1e-9 * step; ++k) ticks.push_back(k * step);
  return ticks;
}

std::string tick_label(double value, double step) {
  if (std::abs(value) >= 1e6) return cat(fixed(value / 1e6, std::abs(step) < 1e6 ? 1 : 0), " M");
  if (std::abs(value) >= 1e4) return cat(fixed(value / 1e3, std::abs(step) < 1e3 ? 1 : 0), " k");
  const int digits = step > 0 ? std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9))) : 0;
  // Rounding first, so that a zero of a floating-point sum has no sign.
  const double unit = std::pow(10.0, std::min(digits, 8));
  const double rounded = std::round(value * unit) / unit;
  return rounded == 0 ? "0" : fixed(rounded, std::min(digits, 8));
}

}  // namespace divergen::stages::report
