// The page of a scaling study.

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/charts.hpp"
#include "stages/report/page.hpp"
#include "stages/scaling/charts.hpp"
#include "stages/scaling/study.hpp"

namespace divergen::stages {
namespace {

using report::figure;
using report::note;
using report::swatch;
using report::TableHtml;

std::string percent(double share) { return cat(fixed(100 * share, 1), " %"); }

std::string rate_text(double rate) {
  return rate >= 100 ? with_thousands(std::llround(rate)) : fixed(rate, rate < 1 ? 3 : 2);
}

std::string ranks_text(std::int64_t ranks) { return cat(with_thousands(ranks), ranks == 1 ? " rank" : " ranks"); }

const ScalingPoint* last_measured(const ScalingResults& r) {
  const ScalingPoint* last = nullptr;
  for (const ScalingPoint& p : r.points)
    if (!p.is_simulated && p.runs > 0) last = &p;
  return last;
}

const ScalingPoint* base_of(const ScalingResults& r) {
  for (const ScalingPoint& p : r.points)
    if (p.ranks == r.base_ranks && p.rate.median > 0) return &p;
  return nullptr;
}

std::string stat(const std::string& name, const std::string& value, const std::string& from) {
  return cat("<div class=\"stat\"><div class=\"name\">", name, "</div><div class=\"big\">", value,
             "</div><div class=\"from\">", from, "</div></div>");
}

std::string hero(const ScalingResults& r) {
  const ScalingStudy& s = r.study;
  const ScalingPoint *base = base_of(r), *last = last_measured(r);
  std::string out = cat("<p class=\"kicker\">", s.is_weak() ? "Weak" : "Strong", " scaling · ", html_escape(s.hardware),
                        " · ", html_escape(s.date), "</p>\n<h1>", html_escape(s.title), "</h1>\n");
  if (base == nullptr) return out + "<p class=\"answer\">Nothing has been measured yet.</p>";
  const ScalingPoint* most = last != nullptr ? last : &r.points.back();
  if (most->ranks > base->ranks)
    out += cat("<p class=\"answer\">", ranks_text(most->ranks), " ", most->is_simulated ? "would make" : "made", " <b>",
               rate_text(most->rate.median), " ", html_escape(s.unit), " a second</b>, ",
               fixed(most->speed_up.median / static_cast<double>(base->ranks), 2), " times as many as ",
               ranks_text(base->ranks), ": an efficiency of <b>", percent(most->efficiency.median), "</b>",
               most->is_simulated ? " (simulated)" : "", ".</p>\n");
  std::size_t good = 0, warm = 0;
  for (const ScalingRun& run : r.runs) (run.is_warm_up() ? warm : good) += run.has_failed() ? 0 : 1;
  out += "<div class=\"stats\">";
  out += stat(cat("Base: ", ranks_text(base->ranks)), rate_text(base->rate.median),
              cat(html_escape(s.unit), " a second <i>",
                  base->is_simulated ? "simulated"
                                     : cat("of the whole run; its work alone ", rate_text(base->work_rate.median)),
                  "</i>"));
  out += stat(cat("At ", ranks_text(most->ranks)), rate_text(most->rate.median),
              cat(html_escape(s.unit), " a second <i>in ", human_seconds(most->seconds.median), "</i>"));
  out += stat("Efficiency", percent(most->efficiency.median),
              cat("<i>", percent(most->efficiency.low), " to ", percent(most->efficiency.high), "; of the work alone ",
                  percent(most->work_efficiency), "</i>"));
  out += stat("Runs", std::to_string(good),
              cat(r.failed == 0 ? "none failed" : cat("<b class=\"less\">", r.failed, " failed</b>"), " <i>and ", warm,
                  " to warm up</i>"));
  return out + "</div>\n";
}

std::string simulated_words(const ScalingResults& r) {
  if (r.simulated_basis.empty()) return "";
  return cat(
      "<div class=\"missing\"><p><b>Hollow dots and the dashed line are simulated</b>: the planner’s and the "
      "queue’s own code against virtual time. ",
      html_escape(r.simulated_basis), "</p></div>\n");
}

std::string curves_section(const ScalingResults& r) {
  if (r.base_ranks == 0) return "";
  const std::string speed = cat(swatch("fill-kept", "measured, median"), swatch("fill-without", "ideal"),
                                r.simulated_basis.empty() ? "" : swatch("dot-hollow", "simulated"));
  const std::string efficiency =
      cat(swatch("fill-kept", "whole run, launch to end"), swatch("fill-frequent", "its work alone"));
  return cat(
      "<div class=\"two\"><div><h3>Speed-up</h3>", figure(scaling::speed_up_chart(r), speed),
      "</div><div><h3>Efficiency</h3>", figure(scaling::efficiency_chart(r), efficiency), "</div></div>\n",
      simulated_words(r),
      note(cat(r.study.is_weak() ? "The number of items of a rank is the same at every point: E = T₁ / Tₚ. "
                                 : "The items are the same at every point: E = T₁ / (p Tₚ). ",
               "T is the time from the launch of the ranks to the end of the last. Dots are medians, bars go from the "
               "least to the most of all repetitions; the warm-up counts for nothing.",
               r.base_ranks != 1
                   ? cat(" Nothing was measured on one rank: all is relative to ", ranks_text(r.base_ranks), ".")
                   : "")));
}

/// A second, quieter line of a cell.
std::string below(const std::string& text) { return cat("<br><span class=\"dim\">", text, "</span>"); }

/// Whether the finish of the last items was recorded: by stages that claim them one after another.
bool has_tails(const ScalingResults& r) {
  return std::any_of(r.points.begin(), r.points.end(), [](const auto& p) { return p.tail_seconds > 0; });
}

std::string time_cell(const ScalingPoint& p) {
  if (p.is_simulated || p.runs < 2) return human_seconds(p.seconds.median);
  return cat(human_seconds(p.seconds.median),
             below(cat(human_seconds(p.seconds.low), " – ", human_seconds(p.seconds.high))));
}

std::string table_section(const ScalingResults& r) {
  TableHtml table;
  const bool is_predicted =
      std::any_of(r.points.begin(), r.points.end(), [](const auto& p) { return p.predicted_seconds > 0; });
  const bool has_tail = has_tails(r);
  const std::string unit = html_escape(r.study.unit);
  table.head = {"Ranks",           "nodes",    unit,         "runs",      "time: median" + below("min – max"),
                cat(unit, " / s"), "speed-up", "efficiency", "work alone"};
  if (has_tail) table.head.push_back("last 5 %");
  table.head.push_back("warm-up");
  if (is_predicted) table.head.push_back("predicted");
  table.first_number = 0;
  for (const ScalingPoint& p : r.points) {
    if (p.rate.median <= 0) {
      table.rows.push_back({with_thousands(p.ranks), "", "", cat("0, ", p.failed, " failed")});
      continue;
    }
    std::vector<std::string> row{
        cat(with_thousands(p.ranks), p.is_simulated ? below("simulated") : ""),
        with_thousands(p.nodes),
        with_thousands(p.items),
        p.is_simulated ? "–"
                       : cat(p.runs, p.failed > 0 ? cat(", <span class=\"less\">", p.failed, " failed</span>") : ""),
        time_cell(p),
        rate_text(p.rate.median),
        fixed(p.speed_up.median, 2),
        cat("<b>", percent(p.efficiency.median), "</b>"),
        percent(p.work_efficiency)};
    if (has_tail) row.push_back(p.tail_seconds > 0 ? human_seconds(p.tail_seconds) : "–");
    row.push_back(p.warm_up_seconds > 0 ? human_seconds(p.warm_up_seconds) : "–");
    if (is_predicted)
      row.push_back(p.predicted_seconds > 0
                        ? cat(human_seconds(p.predicted_seconds),
                              below(cat(p.predicted_seconds >= p.seconds.median ? "+" : "−",
                                        fixed(100 * std::abs(p.predicted_seconds / p.seconds.median - 1), 1), " %")))
                        : "–");
    table.rows.push_back(std::move(row));
  }
  return table.str();
}

std::string shares_section(const ScalingResults& r) {
  const std::string bars = scaling::share_bars(r);
  if (bars.empty()) return "";
  return cat(
      figure(bars, cat("<div class=\"legend\">", scaling::share_legend(r), "</div>")),
      note(cat(
          "Means over the ranks and repetitions, as shares of the time from launch to end (at the right: the median). "
          "“Tail” is what a rank waits at the end for the others",
          has_tails(r) ? "; the table’s “last 5 %” is the time in which the last twentieth of the items was finished."
                       : ". The time of the last twentieth of the items is recorded by generate and annotate alone.")));
}

/// A training's loss over the samples it has seen, one curve a number of ranks (the first repetition).
std::string losses_section(const ScalingResults& r) {
  static constexpr const char* kCss[] = {"s1", "s2", "s3", "s4", "s5", "s0"};
  std::vector<report::Curve> curves;
  std::string legend;
  std::int64_t drawn = 0;
  double least = 0, most = 0;
  for (const ScalingRun& run : r.runs) {
    if (run.losses.empty() || run.repeat != 1 || run.has_failed() || run.ranks == drawn) continue;
    drawn = run.ranks;
    report::Curve curve;
    for (const auto& [samples, loss] : run.losses) {
      curve.x.push_back(static_cast<double>(samples));
      curve.y.push_back(loss);
    }
    curve.css = kCss[curves.size() % std::size(kCss)];
    curve.is_exact = true;
    const double end = curve.y.back();
    least = curves.empty() ? end : std::min(least, end);
    most = curves.empty() ? end : std::max(most, end);
    legend += swatch(curve.css, ranks_text(run.ranks));
    curves.push_back(std::move(curve));
  }
  if (curves.empty()) return "";
  const bool is_line = std::any_of(curves.begin(), curves.end(), [](const auto& c) { return c.x.size() > 1; });
  return cat(
      is_line ? figure(report::line_chart("Loss over samples seen", "samples seen", curves, 1024, 320), legend) : "",
      note(cat(
          "Every point has seen the same number of samples",
          r.study.is_weak()
              ? " a rank; the batch grows with the ranks, so that their curves are those of other optimisations and "
                "only the speed is compared."
              : ", in batches of the same size: the curves have to lie over each other.",
          is_line ? "" : " There was but one step to a run, which makes no curve.", " The last losses are from ",
          fixed(least, 4), " to ", fixed(most, 4), ".")));
}

std::string runs_section(const ScalingResults& r) {
  TableHtml table;
  table.head = {"Ranks", "repetition", "time", "items / s", "work alone", "result", "exit code"};
  table.first_number = 0;
  for (const ScalingRun& run : r.runs)
    table.rows.push_back(
        {with_thousands(run.ranks), run.is_warm_up() ? "warm-up" : std::to_string(run.repeat),
         human_seconds(run.seconds()),
         run.has_failed() ? "–" : rate_text(static_cast<double>(run.items) / std::max(run.seconds(), 1e-9)),
         run.has_failed() ? "–" : human_seconds(run.work_seconds),
         cat("<span class=\"mono\">", html_escape(run.results.substr(0, 12)), "</span>"),
         run.has_failed() ? cat("<b class=\"less\">", run.exit_code, "</b>") : "0"});
  return table.rows.empty()
             ? ""
             : report::fold(cat("All runs <span class=\"dim\">", r.runs.size(), "</span>"), table.str(), false);
}

/// Whether runs with the same items made the same.
std::string sameness(const ScalingResults& r) {
  std::map<std::int64_t, std::vector<std::string>> made;
  std::size_t compared = 0;
  for (const ScalingRun& run : r.runs)
    if (!run.results.empty()) made[run.items].push_back(run.results), ++compared;
  if (compared < 2) return "";
  const bool is_same = std::all_of(made.begin(), made.end(), [](const auto& entry) {
    return std::all_of(entry.second.begin(), entry.second.end(),
                       [&](const auto& h) { return h == entry.second.front(); });
  });
  return is_same ? note(cat("All ", compared, " runs with the same items made the same results, byte for byte."))
                 : "<div class=\"missing bad\"><p>Runs with the same items made <b>different results</b>: see the list "
                   "of runs.</p></div>\n";
}

std::string how_section(const ScalingResults& r, const std::string& config,
                        const std::map<std::string, std::string>& scripts) {
  TableHtml table;
  table.head = {"What", "which"};
  table.first_number = 2;
  table.rows.push_back({"Stage", html_escape(r.study.stage)});
  table.rows.push_back({"Configuration", cat(html_escape(r.study.config_file), ", hash <span class=\"mono\">",
                                             html_escape(r.study.config_hash), "</span>")});
  for (const auto& [name, value] : r.study.facts) table.rows.push_back({html_escape(name), html_escape(value)});
  std::string out = table.str();
  for (const auto& [name, text] : scripts)
    out += report::fold(cat("Script <span class=\"dim\">", html_escape(name), "</span>"),
                        cat("<pre>", html_escape(text), "</pre>\n"), false);
  if (!config.empty())
    out += report::fold("The effective configuration <span class=\"dim\">with the origin of each value</span>",
                        cat("<pre>", html_escape(config), "</pre>\n"), false);
  return out;
}

}  // namespace

std::string scaling_page(const ScalingResults& results, const std::string& config,
                         const std::map<std::string, std::string>& scripts) {
  return report::page(
      results.study.title, hero(results),
      {{"curves", "Speed-up and efficiency", curves_section(results)},
       {"points", "Points", cat(table_section(results), sameness(results))},
       {"shares", "Where the time goes", shares_section(results)},
       {"losses", "The same training", losses_section(results)},
       {"how", "How it was measured", cat(how_section(results, config, scripts), runs_section(results))}},
      cat("Made by divergen scaling · ", html_escape(scaling_file_name(results.study))));
}

}  // namespace divergen::stages
