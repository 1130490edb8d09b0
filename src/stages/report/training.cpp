// Loss curves of the trainings.

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/charts.hpp"
#include "stages/report/page.hpp"
#include "stages/report/sections.hpp"

namespace divergen::stages::report {
namespace {

/// Columns of the journal that are not terms of the loss.
const std::set<std::string>& other_columns() {
  static const std::set<std::string> kNames{"iteration",         "lr",       "seconds", "loss_total", "data_wait",
                                            "images_per_second", "memory_mb"};
  return kNames;
}

/// Grey without generated instances, the accent and its neighbours with them.
std::vector<std::string> colours_of(const std::vector<TrainingFact>& trainings) {
  std::vector<std::string> out;
  int next = 1;
  bool grey_is_free = true;
  for (const auto& t : trainings) {
    if (!t.uses_pool && grey_is_free) {
      out.push_back("s0");
      grey_is_free = false;
    } else {
      out.push_back(cat("s", 1 + (next++ - 1) % 5));
    }
  }
  return out;
}

std::string curves_of(const RunFacts& facts, const std::vector<std::string>& colours, const std::string& key,
                      const std::string& title, double width, double height) {
  std::vector<Curve> curves;
  for (std::size_t i = 0; i < facts.trainings.size(); ++i) {
    const auto& t = facts.trainings[i];
    if (t.column(key).empty() || t.column("iteration").empty()) continue;
    curves.push_back({t.column("iteration"), t.column(key), colours[i], key == "lr"});
  }
  return curves.empty() ? "" : line_chart(title, "iteration", curves, width, height);
}

double last_of(const std::vector<double>& column) {
  for (auto it = column.rbegin(); it != column.rend(); ++it)
    if (std::isfinite(*it)) return *it;
  return std::nan("");
}

double mean_of(const std::vector<double>& column) {
  double sum = 0, n = 0;
  for (double v : column)
    if (std::isfinite(v)) {
      sum += v;
      ++n;
    }
  return n > 0 ? sum / n : std::nan("");
}

std::string number(double value, int digits) { return std::isfinite(value) ? fixed(value, digits) : "–"; }

std::string training_table(const RunFacts& facts, const config::RunConfig& config) {
  TableHtml table;
  table.head = {"Training", "generated instances", "iterations",       "planned",
                "time",     "images / s",          "waiting for data", "final loss"};
  table.first_number = 2;
  for (const auto& t : facts.trainings) {
    std::string planned = "–";
    for (const auto& s : config.trainings)
      if (s.name == t.name) planned = with_thousands(s.iterations);
    const double iteration = last_of(t.column("iteration")), seconds = last_of(t.column("seconds")),
                 waiting = mean_of(t.column("data_wait"));
    table.rows.push_back({html_escape(t.name), t.uses_pool ? "with" : "without",
                          std::isfinite(iteration) ? with_thousands(std::llround(iteration)) : "–", planned,
                          std::isfinite(seconds) ? human_seconds(seconds) : "–",
                          number(mean_of(t.column("images_per_second")), 1),
                          std::isfinite(waiting) ? cat(fixed(100 * waiting, 1), " %") : "–",
                          number(last_of(t.column("loss_total")), 3)});
  }
  return table.str();
}

}  // namespace

std::string training_section(const RunFacts& facts, const config::RunConfig& config) {
  if (facts.trainings.empty()) return "";
  const auto colours = colours_of(facts.trainings);
  std::string legend = "<p class=\"legend\">";
  for (std::size_t i = 0; i < facts.trainings.size(); ++i) legend += swatch(colours[i], facts.trainings[i].name);
  legend += "</p>\n";
  std::string out = training_table(facts, config) + "<h3>Total loss</h3>\n" + legend +
                    figure(curves_of(facts, colours, "loss_total", "Total loss by iteration", 1024, 280),
                           "Faint: as logged. Strong: smoothed.");
  std::set<std::string> terms;
  for (const auto& t : facts.trainings)
    for (const auto& [key, column] : t.columns)
      if (!other_columns().contains(key)) terms.insert(key);
  std::string small;
  for (const std::string& term : terms)
    small += cat("<div><h3>", html_escape(term), "</h3>", figure(curves_of(facts, colours, term, term, 320, 150), ""),
                 "</div>");
  const std::string rate = curves_of(facts, colours, "lr", "Learning rate", 320, 150);
  if (!rate.empty()) small += cat("<div><h3>learning rate</h3>", figure(rate, ""), "</div>");
  if (!small.empty()) out += cat("<div class=\"three\">", small, "</div>\n");
  return out;
}

}  // namespace divergen::stages::report
