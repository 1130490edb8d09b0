#pragma once
// Drawings as inline SVG. Colours are CSS classes of the page (page.cpp), so that they follow light and dark.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace divergen::stages::report {

using Point = std::pair<double, double>;
enum class Anchor { Start, Middle, End };

class Svg {
 public:
  /// A drawing of that many units; shown no larger than that in px, smaller on narrow screens. `label` is read aloud.
  Svg(double width, double height, std::string_view label);

  void line(double x1, double y1, double x2, double y2, std::string_view css);
  /// `tip` is shown while the pointer rests on the shape.
  void rect(double x, double y, double width, double height, std::string_view css, std::string_view tip = "",
            double radius = 0);
  void circle(double x, double y, double radius, std::string_view css, std::string_view tip = "");
  void polyline(const std::vector<Point>& points, std::string_view css);
  void text(double x, double y, std::string_view words, std::string_view css, Anchor anchor = Anchor::Start);
  /// Text that reads upwards.
  void text_upwards(double x, double y, std::string_view words, std::string_view css, Anchor anchor = Anchor::Start);

  /// The whole element. The drawing stays as it is.
  std::string str() const;

 private:
  std::string head_, body_;
};

/// Maps [from, to] to [start, end] in drawing units; not clamped.
struct Scale {
  double from = 0, to = 1, start = 0, end = 1;
  double operator()(double value) const {
    return to == from ? start : start + (value - from) / (to - from) * (end - start);
  }
};

/// Round numbers (1, 2, 5 times a power of ten) within [low, high], about `count` of them.
std::vector<double> nice_ticks(double low, double high, int count);
/// A tick's number with the digits that the step needs.
std::string tick_label(double value, double step);

}  // namespace divergen::stages::report
