// What an evaluation says, as people and programs read it.

#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::lvis {
namespace {

struct Line {
  bool is_recall;
  const char *iou, *area, *most, *group;
};

/// What each summary is the mean of, in the order of Summary::kNames.
constexpr std::array<Line, 13> kLvisLines{{{false, "0.50:0.95", "all", "300", "all"},
                                           {false, "0.50", "all", "300", "all"},
                                           {false, "0.75", "all", "300", "all"},
                                           {false, "0.50:0.95", "s", "300", "all"},
                                           {false, "0.50:0.95", "m", "300", "all"},
                                           {false, "0.50:0.95", "l", "300", "all"},
                                           {false, "0.50:0.95", "all", "300", "r"},
                                           {false, "0.50:0.95", "all", "300", "c"},
                                           {false, "0.50:0.95", "all", "300", "f"},
                                           {true, "0.50:0.95", "all", "300", "all"},
                                           {true, "0.50:0.95", "s", "300", "all"},
                                           {true, "0.50:0.95", "m", "300", "all"},
                                           {true, "0.50:0.95", "l", "300", "all"}}};
constexpr std::array<Line, 12> kCocoLines{{{false, "0.50:0.95", "all", "100", ""},
                                           {false, "0.50", "all", "100", ""},
                                           {false, "0.75", "all", "100", ""},
                                           {false, "0.50:0.95", "small", "100", ""},
                                           {false, "0.50:0.95", "medium", "100", ""},
                                           {false, "0.50:0.95", "large", "100", ""},
                                           {true, "0.50:0.95", "all", "1", ""},
                                           {true, "0.50:0.95", "all", "10", ""},
                                           {true, "0.50:0.95", "all", "100", ""},
                                           {true, "0.50:0.95", "small", "100", ""},
                                           {true, "0.50:0.95", "medium", "100", ""},
                                           {true, "0.50:0.95", "large", "100", ""}}};

const char* name_of(IouType type) { return type == IouType::Box ? "bbox" : "segm"; }

/// A field of a comma-separated line.
std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + '"';
}

std::string shortest(double value) {
  char digits[32];
  const int n = std::snprintf(digits, sizeof digits, "%.17g", value);
  for (int precision = 1; precision < 17; ++precision) {
    char shorter[32];
    const int m = std::snprintf(shorter, sizeof shorter, "%.*g", precision, value);
    if (std::strtod(shorter, nullptr) == value) return {shorter, static_cast<std::size_t>(m)};
  }
  return {digits, static_cast<std::size_t>(n)};
}

}  // namespace

std::string summary_table(const Evaluation& evaluation) {
  const bool is_lvis = evaluation.summary.protocol == Protocol::Lvis;
  std::string out;
  for (std::size_t i = 0; i < evaluation.summary.size(); ++i) {
    const Line& line = is_lvis ? kLvisLines[i] : kCocoLines[i];
    char text[160];
    const char *title = line.is_recall ? "Average Recall" : "Average Precision",
               *type = line.is_recall ? "(AR)" : "(AP)";
    if (is_lvis)
      std::snprintf(text, sizeof text, " %-18s %s @[ IoU=%-9s | area=%6s | maxDets=%3s catIds=%3s] = %0.3f\n", title,
                    type, line.iou, line.area, line.most, line.group, evaluation.summary.values[i]);
    else
      std::snprintf(text, sizeof text, " %-18s %s @[ IoU=%-9s | area=%6s | maxDets=%3s ] = %0.3f\n", title, type,
                    line.iou, line.area, line.most, evaluation.summary.values[i]);
    out += text;
  }
  return out;
}

std::string to_json(const Evaluation& evaluation, IouType type) {
  nlohmann::json out{{"protocol", evaluation.summary.protocol == Protocol::Lvis ? "lvis" : "coco"},
                     {"iou_type", name_of(type)},
                     {"detections", evaluation.detections},
                     {"kept", evaluation.kept}};
  for (std::size_t i = 0; i < evaluation.summary.size(); ++i)
    out[evaluation.summary.name(i)] = evaluation.summary.values[i];
  for (const CategoryScores& scores : evaluation.categories)
    out["per_category"][std::to_string(scores.id)] = scores.values[0];
  return out.dump(2) + "\n";
}

std::string to_csv(const Evaluation& evaluation, const Dataset& truth) {
  std::string out = "id,name,frequency";
  for (const char* name : CategoryScores::kNames) out += cat(",", name);
  out += ",truths,detections\n";
  for (const CategoryScores& scores : evaluation.categories) {
    const Category& category = truth.categories[truth.category_index.at(scores.id)];
    out += cat(scores.id, ",", quoted(category.name), ",", category.frequency);
    for (const double value : scores.values) out += "," + shortest(value);
    out += cat(",", scores.truths, ",", scores.detections, "\n");
  }
  return out;
}

}  // namespace divergen::lvis
