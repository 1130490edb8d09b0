// The answer, and the numbers that it stands on.

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/charts.hpp"
#include "stages/report/page.hpp"
#include "stages/report/sections.hpp"

namespace divergen::stages::report {
namespace {

struct Group {
  const char *key, *name;
};
constexpr std::array<Group, 4> kGroups{{{"AP", "All"}, {"APr", "Rare"}, {"APc", "Common"}, {"APf", "Frequent"}}};
constexpr std::array<const char*, 9> kColumns{"AP", "APr", "APc", "APf", "AP50", "AP75", "APs", "APm", "APl"};

std::string bold(const std::string& text) { return cat("<b>", text, "</b>"); }

std::string moved(double before, double after) {
  const double points = std::round(1000 * after) / 10 - std::round(1000 * before) / 10;
  return std::abs(points) < 0.05 ? "stays at" : points > 0 ? "rises" : "falls";
}

/// "rises from 12.3 to 15.6", or "stays at 12.3".
std::string movement(double before, double after) {
  const std::string verb = moved(before, after);
  if (verb == "stays at") return cat(verb, " ", bold(percent(after)));
  return cat(verb, " from ", percent(before), " to ", bold(percent(after)));
}

std::string instances_of(const RunFacts& facts) {
  return facts.library
             ? cat(with_thousands(static_cast<std::int64_t>(facts.library->instances)), " generated instances")
             : "generated instances";
}

std::string answer_of_both(const RunFacts& facts, const EvaluationFact& without, const EvaluationFact& with) {
  const double before = value_of(without.box, "AP"), after = value_of(with.box, "AP");
  const double points = 100 * (after - before);
  // Below half a point one training a side says nothing; more seeds would.
  const char* verdict = std::abs(points) < 0.5 ? "Hardly any difference." : points > 0 ? "Yes." : "No.";
  std::string text = cat("<b>", verdict, "</b> With ", instances_of(facts), ", box AP ", movement(before, after));
  const double rare_before = value_of(without.box, "APr"), rare_after = value_of(with.box, "APr");
  if (rare_before >= 0 && rare_after >= 0) text += cat("; on rare categories it ", movement(rare_before, rare_after));
  const double mask_before = value_of(without.mask, "AP"), mask_after = value_of(with.mask, "AP");
  if (mask_before >= 0 && mask_after >= 0) text += cat(". Mask AP ", movement(mask_before, mask_after));
  return text + ".";
}

std::string answer(const RunFacts& facts) {
  const EvaluationFact *without = facts.without(), *with = facts.with();
  if (without != nullptr && with != nullptr) return answer_of_both(facts, *without, *with);
  const EvaluationFact* only = without != nullptr ? without : with;
  if (only == nullptr) return "Not answered yet: no training has been evaluated.";
  return cat("Not answered yet: only “", html_escape(only->name), "”, trained ", only->uses_pool ? "with" : "without",
             " generated instances, has been evaluated. Its box AP is ", bold(percent(value_of(only->box, "AP"))),
             ", its mask AP ", bold(percent(value_of(only->mask, "AP"))), ".");
}

std::string stat(const RunFacts& facts, const Group& group) {
  const EvaluationFact &without = *facts.without(), &with = *facts.with();
  const double before = value_of(without.box, group.key), after = value_of(with.box, group.key);
  const std::string points = gain(before, after);
  const char* css = points.front() == '+' ? "big up" : points.starts_with("−") ? "big less" : "big";
  const double mask_before = value_of(without.mask, group.key), mask_after = value_of(with.mask, group.key);
  return cat("<div class=\"stat\"><div class=\"name\">", group.name, " categories</div><div class=\"", css, "\">",
             points, "</div><div class=\"from\"><i>box AP</i> ", percent(before), " → ", percent(after),
             "<br><i>mask AP</i> ", percent(mask_before), " → ", percent(mask_after), "</div></div>");
}

std::string list_box(const char* css, const std::string& title, const std::vector<std::string>& lines) {
  if (lines.empty()) return "";
  std::string items;
  for (const std::string& line : lines) items += cat("<li>", html_escape(line), "</li>");
  return cat("<div class=\"", css, "\"><p>", title, "</p><ul>", items, "</ul></div>\n");
}

std::string ap_table(const RunFacts& facts, bool boxes) {
  TableHtml table;
  table.head = {boxes ? "Boxes" : "Masks"};
  for (const char* key : kColumns) {
    const std::string name(key);
    table.head.push_back(name == "AP" ? "AP" : cat("AP<sub>", name.substr(2), "</sub>"));
  }
  const auto summary = [&](const EvaluationFact& e) -> const auto& { return boxes ? e.box : e.mask; };
  for (const auto& e : facts.evaluations) {
    if (summary(e).empty()) continue;
    std::vector<std::string> row{
        cat(html_escape(e.name), " <span class=\"dim\">", e.uses_pool ? "with" : "without", "</span>")};
    for (const char* key : kColumns) row.push_back(percent(value_of(summary(e), key)));
    table.rows.push_back(row);
  }
  if (table.rows.empty()) return "";
  const EvaluationFact* without = facts.without();
  const auto pooled = std::count_if(facts.evaluations.begin(), facts.evaluations.end(),
                                    [](const EvaluationFact& e) { return e.uses_pool; });
  for (const auto& e : facts.evaluations) {
    if (without == nullptr || !e.uses_pool || summary(e).empty()) continue;
    std::vector<std::string> row{pooled == 1 ? "<b>Gain</b>" : cat("<b>Gain</b> of ", html_escape(e.name))};
    for (const char* key : kColumns) {
      const std::string points = gain(value_of(summary(*without), key), value_of(summary(e), key));
      const char* css = points.front() == '+' ? "up" : points.starts_with("−") ? "less" : "dim";
      row.push_back(cat("<b class=\"", css, "\">", points, "</b>"));
    }
    table.rows.push_back(row);
  }
  return table.str();
}

std::string group_chart(const RunFacts& facts, bool boxes, double most) {
  std::vector<DotRow> rows;
  for (const Group& group : kGroups) {
    DotRow row{group.name, {}};
    for (const auto& e : facts.evaluations) row.values.push_back(value_of(boxes ? e.box : e.mask, group.key));
    rows.push_back(std::move(row));
  }
  std::vector<bool> hollow;
  for (const auto& e : facts.evaluations) hollow.push_back(!e.uses_pool);
  return dot_chart(boxes ? "Box AP by frequency group" : "Mask AP by frequency group", rows, hollow, most);
}

struct CategoryGain {
  const CategoryFact* category;
  double before, after;
};

std::vector<CategoryGain> gains_of(const RunFacts& facts, const std::string& frequency) {
  std::vector<CategoryGain> gains;
  for (const auto& category : facts.categories) {
    if (category.is_extra || category.frequency != frequency) continue;
    const auto before = facts.without()->category_box.find(category.id);
    const auto after = facts.with()->category_box.find(category.id);
    if (before == facts.without()->category_box.end() || after == facts.with()->category_box.end()) continue;
    if (before->second >= 0 && after->second >= 0) gains.push_back({&category, before->second, after->second});
  }
  std::stable_sort(gains.begin(), gains.end(),
                   [](const auto& a, const auto& b) { return a.after - a.before > b.after - b.before; });
  return gains;
}

std::string gain_chart(const std::vector<CategoryGain>& gains, const std::string& group, double reach) {
  constexpr std::size_t kEnd = 12;  // of longer lists the best and the worst are shown
  std::vector<Bar> bars;
  for (std::size_t i = 0; i < gains.size(); ++i) {
    if (gains.size() > 2 * kEnd && i >= kEnd && i < gains.size() - kEnd) continue;
    const auto& g = gains[i];
    const double points = std::round(1000 * g.after) / 10 - std::round(1000 * g.before) / 10;
    bars.push_back({g.category->name, cat(g.category->name, ": box AP ", percent(g.before), " → ", percent(g.after)),
                    points, "fill-" + group});
  }
  return gain_bars(cat("Gain in box AP of ", group, " categories"), bars, reach);
}

}  // namespace

std::string hero(const RunFacts& facts) {
  const std::string title = facts.title.empty() ? "Do generated instances make a better detector?" : facts.title;
  std::string out = cat("<header>\n<p class=\"kicker\">divergen · ", html_escape(facts.root.filename().string()),
                        "</p>\n<h1>", html_escape(title), "</h1>\n<p class=\"answer\">", answer(facts), "</p>\n");
  if (facts.without() != nullptr && facts.with() != nullptr) {
    out += "<div class=\"stats\">";
    for (const Group& group : kGroups) out += stat(facts, group);
    out += "</div>\n";
    out += note(cat("Change in percentage points, “", html_escape(facts.with()->name), "” against “",
                    html_escape(facts.without()->name),
                    "”. Each number comes from one training; differences of a few tenths can be chance."));
  }
  out += list_box("missing", "Not in this report yet:", facts.missing);
  out += list_box("missing bad", "Damaged or unreadable, and left out:", facts.problems);
  return out + "</header>";
}

std::string results_section(const RunFacts& facts) {
  if (facts.evaluations.empty()) return "";
  double most = 0;
  for (const auto& e : facts.evaluations)
    for (const Group& group : kGroups) most = std::max({most, value_of(e.box, group.key), value_of(e.mask, group.key)});
  std::string out =
      "<p>LVIS average precision on the validation set, in percent. Rare, common and frequent are LVIS’ groups by "
      "number "
      "of training images.</p>\n";
  out += "<p class=\"legend\">";
  const bool has_without = facts.without() != nullptr, has_with = facts.with() != nullptr;
  if (has_without)
    out +=
        "<span class=\"swatch\"><svg viewBox=\"0 0 12 12\"><circle cx=\"6\" cy=\"6\" r=\"4.6\" "
        "class=\"dot-hollow\"/></svg>"
        "without generated instances</span>";
  if (has_with)
    out +=
        "<span class=\"swatch\"><svg viewBox=\"0 0 12 12\"><circle cx=\"6\" cy=\"6\" r=\"5.4\" "
        "class=\"dot-full\"/></svg>"
        "with generated instances</span>";
  out += "</p>\n<div class=\"two\">";
  out += cat("<div><h3>Boxes</h3>", figure(group_chart(facts, true, most), ""), "</div>");
  out += cat("<div><h3>Masks</h3>", figure(group_chart(facts, false, most), ""), "</div></div>\n");
  return out + ap_table(facts, true) + ap_table(facts, false);
}

std::string categories_section(const RunFacts& facts) {
  if (facts.without() == nullptr || facts.with() == nullptr) return "";
  std::string columns;
  std::size_t better = 0, worse = 0;
  std::vector<std::pair<std::string, std::vector<CategoryGain>>> groups;
  double reach = 1;
  for (const char* frequency : {"r", "c", "f", ""}) {
    auto gains = gains_of(facts, frequency);
    for (const auto& g : gains) {
      reach = std::max(reach, 100 * std::abs(g.after - g.before));
      better += g.after > g.before;
      worse += g.after < g.before;
    }
    if (!gains.empty()) groups.emplace_back(frequency, std::move(gains));
  }
  if (groups.empty()) return "";
  for (const auto& [frequency, gains] : groups) {
    const std::string group = frequency_name(frequency, false);
    columns += cat("<div><h3>", frequency_badge(frequency, false), "</h3>", figure(gain_chart(gains, group, reach), ""),
                   gains.size() > 24 ? note(cat("The 12 best and the 12 worst of ", gains.size(), ".")) : "", "</div>");
  }
  return cat("<p>Change of box AP by category: ", better, " better, ", worse,
             " worse. Single categories have few validation objects; look at the groups, not at one bar.</p>\n"
             "<div class=\"three\">",
             columns, "</div>\n");
}

}  // namespace divergen::stages::report
