// A scaling study's numbers against hand-made ones: shares, spread, efficiency, tables, page.

#include "stages/scaling/study.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/common/rank_phases.hpp"
#include "stages/scaling/charts.hpp"

namespace divergen::stages {
namespace {

double of(const TimeShares& shares, TimeShare which) { return shares[static_cast<std::size_t>(which)]; }

/// Two ranks that were launched at 100; the second has less to do.
std::vector<RankPhases> two_ranks() { return {{102, 104, 114, 5, 2, 1, 1, 0}, {103, 105, 111, 3, 2, 0.5, 0.25, 0.25}}; }

StageRecord record_of(const std::vector<RankPhases>& ranks) {
  StageRecord out;
  out.stage = "generate";
  for (const RankPhases& r : ranks) EXPECT_EQ(to_text(rank_phases_of(to_text(r))), to_text(r));
  add_phases(out.figures, ranks);
  return out;
}

ScalingRun run(std::int64_t ranks, int repeat, std::int64_t items, double seconds, double work = 1) {
  ScalingRun out;
  out.ranks = ranks;
  out.nodes = 1;
  out.items = items;
  out.repeat = repeat;
  out.begun = 1'700'000'000;
  out.ended = out.begun + seconds;
  out.work_seconds = work;
  out.shares[static_cast<std::size_t>(TimeShare::Steady)] = 0.75 * seconds;
  out.shares[static_cast<std::size_t>(TimeShare::Tail)] = 0.25 * seconds;
  return out;
}

ScalingStudy study(const std::string& mode) {
  ScalingStudy out;
  out.stage = "generate";
  out.mode = mode;
  out.title = "A <study>";
  out.unit = "pictures";
  out.hardware = "Xeon(R) 2 cores";
  out.entity = "Mini World";
  out.date = "2026-11-26";
  out.facts["MPI"] = "Open MPI 4.1.4";
  return out;
}

/// Strong scaling of 100 items: warm-ups, three runs each, one of them failed on four ranks.
std::vector<ScalingRun> strong_runs() {
  std::vector<ScalingRun> runs{run(4, 2, 100, 30, 20),  run(4, 1, 100, 34, 22),  run(4, 0, 100, 60),
                               run(4, 3, 100, 32, 25),  run(1, 1, 100, 100, 80), run(1, 2, 100, 96, 80),
                               run(1, 3, 100, 104, 80), run(1, 0, 100, 150)};
  runs.push_back(run(4, 2, 100, 5));
  runs.back().exit_code = 70;
  return runs;
}

TEST(TimeShares, AddUpToTheWholeTime) {
  const TimeShares shares = time_shares(record_of(two_ranks()), 100, 117);
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::StartUp), 2.5);
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Load), 4);  // (104-102 + 2 + 105-103 + 2) / 2
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Steady), 4);
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Commit), 0.75);
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Input), 0.625);
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Comm), 0.125);
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Queue), 0.5);  // one second of the first rank, none of the second
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Tail), 1.5);   // the second ends three seconds before the first
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Closing), 3);
  double sum = 0;
  for (const double s : shares) sum += s;
  EXPECT_DOUBLE_EQ(sum, 17);
}

TEST(TimeShares, RankWithoutWorkWaitsToTheEnd) {
  std::vector<RankPhases> ranks = two_ranks();
  ranks[1] = {103};
  const TimeShares shares = time_shares(record_of(ranks), 100, 114);
  EXPECT_DOUBLE_EQ(of(shares, TimeShare::Tail), 5.5);  // 114 - 103, of one rank of two
  double sum = 0;
  for (const double s : shares) sum += s;
  EXPECT_DOUBLE_EQ(sum, 14);
}

TEST(TimeShares, RecordsOfEarlierVersionsHaveNone) { EXPECT_EQ(time_shares(StageRecord{}, 100, 114), TimeShares{}); }

TEST(Spread, MedianOfOddAndEvenNumbers) {
  EXPECT_DOUBLE_EQ(spread_of({3, 1, 2}).median, 2);
  const Spread even = spread_of({8, 2, 4, 1});
  EXPECT_DOUBLE_EQ(even.median, 3);
  EXPECT_DOUBLE_EQ(even.low, 1);
  EXPECT_DOUBLE_EQ(even.high, 8);
}

TEST(Results, StrongScaling) {
  const ScalingResults results = scaling_results(study("strong"), strong_runs());
  ASSERT_EQ(results.points.size(), 2u);
  EXPECT_EQ(results.base_ranks, 1);
  EXPECT_EQ(results.failed, 1);
  const ScalingPoint &one = results.points[0], &four = results.points[1];
  EXPECT_DOUBLE_EQ(one.seconds.median, 100);
  EXPECT_DOUBLE_EQ(one.efficiency.median, 1);
  EXPECT_DOUBLE_EQ(one.warm_up_seconds, 150);
  EXPECT_EQ(four.runs, 3);
  EXPECT_EQ(four.failed, 1);
  EXPECT_DOUBLE_EQ(four.seconds.median, 32);
  EXPECT_DOUBLE_EQ(four.seconds.low, 30);
  EXPECT_DOUBLE_EQ(four.seconds.high, 34);
  EXPECT_DOUBLE_EQ(four.speed_up.median, 100.0 / 32);          // T1 / Tp
  EXPECT_DOUBLE_EQ(four.efficiency.median, 100.0 / (4 * 32));  // T1 / (p Tp)
  EXPECT_DOUBLE_EQ(four.efficiency.low, 100.0 / (4 * 34));
  EXPECT_DOUBLE_EQ(four.efficiency.high, 100.0 / (4 * 30));
  EXPECT_DOUBLE_EQ(four.work_efficiency, 80.0 / (4 * 22));
  EXPECT_DOUBLE_EQ(of(four.shares, TimeShare::Steady), 24);
}

TEST(Results, WeakScaling) {
  const ScalingResults results = scaling_results(
      study("weak"), {run(2, 1, 40, 10), run(8, 1, 160, 12.5), run(2, 2, 40, 10), run(8, 2, 160, 12.5)});
  EXPECT_EQ(results.base_ranks, 2);                            // nothing on one rank
  EXPECT_DOUBLE_EQ(results.points[1].efficiency.median, 0.8);  // T2 / T8
  EXPECT_DOUBLE_EQ(results.points[1].speed_up.median, 8 * 0.8);
  const std::string page = scaling_page(results, "", {});
  EXPECT_NE(page.find("relative to 2 ranks"), std::string::npos);
}

TEST(Results, SimulatedPointsAreComparedWithTheMeasuredBase) {
  SimulatedPoint thousand;
  thousand.ranks = 1000;
  thousand.items = 100'000;
  thousand.nodes = 125;
  thousand.seconds = 125;
  thousand.work_seconds = 100;
  ScalingResults results = scaling_results(study("weak"), {run(1, 1, 100, 100, 80)}, {thousand}, {{1, 103}});
  results.simulated_basis = "assumed: a <disk>";
  ASSERT_EQ(results.points.size(), 2u);
  EXPECT_TRUE(results.points[1].is_simulated);
  EXPECT_DOUBLE_EQ(results.points[1].efficiency.median, 0.8);
  EXPECT_DOUBLE_EQ(results.points[0].predicted_seconds, 103);
  const std::string page = scaling_page(results, "", {});
  EXPECT_NE(page.find("simulated"), std::string::npos);
  EXPECT_NE(page.find("a &lt;disk&gt;"), std::string::npos);
  EXPECT_NE(scaling::speed_up_chart(results).find("dot-hollow"), std::string::npos);
  const std::string csv = scaling_csv(results);
  EXPECT_NE(csv.find("generate,weak,simulated,1000,125,0,100000,0,,125.0000,800.00000,"), std::string::npos) << csv;
}

TEST(Results, NothingButASimulationIsItsOwnBase) {
  SimulatedPoint one, many;
  one.ranks = 1;
  one.items = 10;
  one.seconds = one.work_seconds = 10;
  many = one;
  many.ranks = 100;
  many.items = 1000;
  many.seconds = 12.5;
  const ScalingResults results = scaling_results(study("weak"), {}, {many, one});
  EXPECT_EQ(results.base_ranks, 1);
  EXPECT_DOUBLE_EQ(results.points.back().efficiency.median, 0.8);
}

TEST(Csv, OneRowARunAndTheSameColumnsEverywhere) {
  const std::string csv = scaling_csv(scaling_results(study("strong"), strong_runs()));
  std::vector<std::string> rows = split(csv, '\n');
  rows.pop_back();
  ASSERT_EQ(rows.size(), 1 + 9u);
  for (const std::string& row : rows)
    EXPECT_EQ(std::count(row.begin(), row.end(), ','), std::count(rows[0].begin(), rows[0].end(), ',')) << row;
  EXPECT_TRUE(rows[1].starts_with("generate,strong,warm-up,1,1,0,100,0,2023-11-14T22:13:20Z,150.0000,0.66667,"))
      << rows[1];
  EXPECT_EQ(std::count_if(rows.begin(), rows.end(), [](const auto& r) { return r.find(",failed,") != r.npos; }), 1);
}

TEST(Json, HoldsEveryPointAndRun) {
  const auto json = nlohmann::json::parse(scaling_json(scaling_results(study("strong"), strong_runs())));
  EXPECT_EQ(json.at("points").size(), 2u);
  EXPECT_EQ(json.at("runs").size(), 9u);
  EXPECT_EQ(json.at("failed_runs"), 1);
  EXPECT_DOUBLE_EQ(json.at("points")[1].at("efficiency").at("median"), 100.0 / 128);
  EXPECT_EQ(json.at("study").at("facts").at("MPI"), "Open MPI 4.1.4");
}

TEST(Texts, ComeBack) {
  ScalingRun given = run(4, 2, 100, 30, 20);
  given.losses = {{8, 3.5}, {16, 2.25}};
  given.results = "abc";
  EXPECT_EQ(to_text(scaling_run_of(to_text(given), "")), to_text(given));
  EXPECT_THROW(scaling_run_of("{\"ranks\": 1}", "run.json"), Error);
  EXPECT_EQ(to_text(scaling_study_of(to_text(study("weak")), "")), to_text(study("weak")));
  std::vector<SimulatedPoint> points(1), back;
  points[0].ranks = 7;
  std::map<std::int64_t, double> predicted;
  EXPECT_EQ(read_simulated(to_text(points, {{2, 3.5}}, "basis"), "", back, predicted), "basis");
  EXPECT_EQ(back.at(0).ranks, 7);
  EXPECT_DOUBLE_EQ(predicted.at(2), 3.5);
}

TEST(Page, SaysWhatIsThereAndEscapesIt) {
  std::vector<ScalingRun> runs = strong_runs();
  for (ScalingRun& r : runs) r.results = "0123456789abcdef";
  const std::string page =
      scaling_page(scaling_results(study("strong"), runs), "a = \"<b>\"", {{"p4.sbatch", "#!/bin/bash"}});
  for (const char* part : {"A &lt;study&gt;", "1 failed", "78.1 %", "a = &quot;&lt;b&gt;&quot;", "p4.sbatch",
                           "same results, byte for byte", "tail: done, others are not"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(page.find("http://"), page.find("http://www.w3.org/2000/svg"));  // nothing from outside
  runs[0].results = "other";
  EXPECT_NE(scaling_page(scaling_results(study("strong"), runs), "", {}).find("different results"), std::string::npos);
  EXPECT_NE(scaling_page(scaling_results(study("strong"), {}), "", {}).find("Nothing has been measured"),
            std::string::npos);
}

TEST(Page, TrainingShowsItsCurves) {
  ScalingRun one = run(1, 1, 64, 10), two = run(2, 1, 64, 6);
  one.losses = {{8, 4.0}, {64, 2.5}};
  two.losses = {{8, 4.0}, {64, 2.5001}};
  const std::string page = scaling_page(scaling_results(study("strong"), {one, two}), "", {});
  EXPECT_NE(page.find("from 2.5000 to 2.5001"), std::string::npos);
}

TEST(Charts, PointsLieWhereTheyShould) {
  // Perfect scaling from 1 to 4: the last point of the measured line is the end of the ideal one.
  const ScalingResults results =
      scaling_results(study("strong"), {run(1, 1, 100, 100), run(2, 1, 100, 50), run(4, 1, 100, 25)});
  const std::string chart = scaling::speed_up_chart(results);
  // From the left axis (58) to the right margin (480); from the bottom (326) to the top (12).
  EXPECT_NE(chart.find("<polyline points=\"58.0,326.0 269.0,169.0 480.0,12.0\" class=\"smooth s1\"/>"),
            std::string::npos)
      << chart;
  EXPECT_NE(chart.find("<line x1=\"58\" y1=\"326\" x2=\"480\" y2=\"12\" class=\"link\"/>"), std::string::npos);
  const std::string efficiency = scaling::efficiency_chart(results);
  EXPECT_NE(efficiency.find("<polyline points=\"58.0,40.5 269.0,40.5 480.0,40.5\" class=\"smooth s1\"/>"),
            std::string::npos)
      << efficiency;  // 100 % of an axis up to 110 %
  const std::string bars = scaling::share_bars(results);
  EXPECT_NE(bars.find("75.0 %"), std::string::npos);
  EXPECT_NE(bars.find("25.0 %"), std::string::npos);
}

TEST(Names, ThemeHardwareDateEntity) {
  EXPECT_EQ(scaling_file_name(study("weak")), "scaling-generate-weak_xeon-r-2-cores_2026-11-26_mini-world");
}

}  // namespace
}  // namespace divergen::stages
