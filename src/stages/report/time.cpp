// Where the time went, and with what the run was made.

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

/// Mean busy time of the ranks over that of the busiest: 1 is perfectly even.
double balance_of(const StageRecord& record) {
  double sum = 0, most = 0;
  for (const RankShare& r : record.ranks) {
    sum += r.busy_seconds;
    most = std::max(most, r.busy_seconds);
  }
  return most > 0 ? sum / static_cast<double>(record.ranks.size()) / most : -1;
}

std::string rate_of(double per_second) {
  if (!std::isfinite(per_second) || per_second <= 0) return "–";
  return per_second >= 100 ? with_thousands(std::llround(per_second)) : fixed(per_second, per_second < 1 ? 3 : 1);
}

std::string hash_html(const std::string& hash) {
  return hash.empty() ? "<span class=\"dim\">not known yet</span>"
                      : cat("<span class=\"mono\">", html_escape(hash), "</span>");
}

std::string stage_table(const RunFacts& facts) {
  TableHtml table;
  table.head = {"Stage", "items", "time", "items / s", "ranks", "balance", "rejected", "written"};
  double total = 0;
  for (const StageRecord& record : facts.records) {
    std::int64_t rejected = 0;
    for (const auto& [reason, count] : record.rejected) rejected += count;
    const double balance = balance_of(record);
    const auto bytes = record.figures.find("bytes");
    const bool is_pass = facts.is_pass(record);
    table.rows.push_back(
        {is_pass ? cat("<span class=\"dim\">", html_escape(record.stage), "</span>") : html_escape(record.stage),
         with_thousands(record.items), human_seconds(record.seconds),
         record.seconds > 0 ? rate_of(static_cast<double>(record.items) / record.seconds) : "–",
         record.ranks.empty() ? "–" : std::to_string(record.ranks.size()),
         balance < 0 || record.ranks.size() < 2 ? "–" : cat(fixed(100 * balance, 0), " %"),
         rejected > 0 ? with_thousands(rejected) : "–",
         bytes == record.figures.end() ? "–" : human_bytes(static_cast<std::uint64_t>(std::max(0.0, bytes->second)))});
    if (!is_pass) total += record.seconds;
  }
  table.rows.push_back({"<b>all</b>", "", cat("<b>", human_seconds(total), "</b>"), "", "", "", "", ""});
  return table.str();
}

std::string seeds_of(const config::RunConfig& config) {
  std::string text = cat("run ", config.seed);
  for (const auto& t : config.trainings) text += cat(" · ", t.name, " ", t.seed);
  return text;
}

std::string hosts_of(const RunFacts& facts) {
  std::set<std::string> hosts;
  for (const auto& record : facts.records)
    for (const auto& rank : record.ranks)
      if (!rank.host.empty()) hosts.insert(rank.host);
  std::string text;
  std::size_t shown = 0;
  for (const std::string& host : hosts) {
    if (shown++ == 8) {
      text += cat(" and ", hosts.size() - 8, " more");
      break;
    }
    text += cat(text.empty() ? "" : ", ", host);
  }
  return text;
}

}  // namespace

std::string time_section(const RunFacts& facts) {
  if (facts.records.empty()) return "";
  std::string out = stage_table(facts);
  out += note(
      "Balance is the mean computing time of the ranks over that of the busiest one; 100 % means nobody waited. Times "
      "are wall clock and include loading models; a stage’s time holds that of its passes, which are grey.");
  const std::string drawing = timeline(facts.records);
  if (!drawing.empty())
    out += cat("<h3>Ranks over time</h3>\n",
               figure(drawing, cat(swatch("lane-busy", "computing"), swatch("lane", "waiting"),
                                   "<br>One bar a rank, of each stage’s last start. The dark part is the share of its "
                                   "time that the rank computed; a dashed line marks a pause that was cut out.")));
  return out;
}

std::string config_section(const RunFacts& facts) {
  if (facts.config_text.empty()) return "";
  return fold("The effective configuration <span class=\"dim\">with the origin of each value</span>",
              cat("<pre>", html_escape(facts.config_text), "</pre>\n"), false);
}

std::string provenance_section(const RunFacts& facts, const config::RunConfig& config) {
  std::string out;
  if (!facts.generators.empty()) {
    TableHtml table;
    table.head = {"Generator", "sampler", "steps", "guidance", "hash of its weights"};
    table.first_number = 5;
    for (const auto& g : facts.generators)
      table.rows.push_back({html_escape(g.name), html_escape(g.sampler), html_escape(g.steps), html_escape(g.guidance),
                            hash_html(g.weights_hash)});
    out += table.str();
  }
  TableHtml table;
  table.head = {"What", "which"};
  table.first_number = 2;
  table.rows = {{"Annotator’s weights", hash_html(facts.annotator_hash)},
                {"CLIP weights", hash_html(facts.clip_hash)},
                {"Configuration", hash_html(facts.config_hash)},
                {"Instance library", hash_html(facts.library ? facts.library->hash : "")},
                {"Seeds", html_escape(seeds_of(config))},
                {"Report by", html_escape(cat(facts.software, ", compiled with ", "g++ " __VERSION__))}};
  if (facts.library) table.rows.push_back({"Library by", html_escape(facts.library->tables.software)});
  const std::string hosts = hosts_of(facts);
  if (!hosts.empty()) table.rows.push_back({"Machines", html_escape(hosts)});
  return out + table.str();
}

}  // namespace divergen::stages::report
