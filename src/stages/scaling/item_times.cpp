#include "stages/scaling/item_times.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "divergen-item-times";
constexpr int kPoints = 4096;  // of the table of quantiles

std::vector<double> points_of(const std::function<double(double)>& quantile) {
  std::vector<double> points;
  points.reserve(kPoints + 1);
  for (int i = 0; i <= kPoints; ++i) points.push_back(quantile(static_cast<double>(i) / kPoints));
  return points;
}

/// Quantile of the standard normal distribution: bisection of erfc, which is exact enough for a table made once.
double normal_quantile(double u) {
  double low = -8, high = 8;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < u ? low : high) = middle;
  }
  return (low + high) / 2;
}

[[noreturn]] void bad_text(std::string_view text) {
  fail(ErrorKind::Usage, {"these item times cannot be understood", std::string(text), "",
                          "give constant:SECONDS, uniform:LOW,HIGH, log-uniform:LOW,HIGH or log-normal:MEDIAN,SIGMA"});
}

void check_range(std::string_view name, double low, double high) {
  if (!(low >= 0 && high >= low && std::isfinite(high)))
    fail(ErrorKind::Usage, {"item times must be seconds from low to high, none negative", std::string(name),
                            cat("they are ", low, " and ", high), ""});
}

}  // namespace

void ItemTimes::tabulate(const std::vector<double>& points) {
  table_ = points;
  // The mean of what quantile() gives, which is linear between the points.
  double sum = 0;
  for (std::size_t i = 0; i + 1 < table_.size(); ++i) sum += (table_[i] + table_[i + 1]) / 2;
  mean_ = sum / static_cast<double>(table_.size() - 1);
}

double ItemTimes::quantile(double u) const {
  const double at = std::clamp(u, 0.0, 1.0) * static_cast<double>(table_.size() - 1);
  const auto i = std::min(static_cast<std::size_t>(at), table_.size() - 2);
  return table_[i] + (at - static_cast<double>(i)) * (table_[i + 1] - table_[i]);
}

ItemTimes ItemTimes::constant(double seconds) {
  check_range("constant", seconds, seconds);
  ItemTimes out(cat("always ", human_seconds(seconds)));
  out.tabulate({seconds, seconds});
  return out;
}

ItemTimes ItemTimes::uniform(double low, double high) {
  check_range("uniform", low, high);
  ItemTimes out(cat("uniform from ", human_seconds(low), " to ", human_seconds(high)));
  out.tabulate({low, high});
  return out;
}

ItemTimes ItemTimes::log_uniform(double low, double high) {
  check_range("log-uniform", low, high);
  if (low == 0) check_range("log-uniform", -1, high);
  ItemTimes out(cat("log-uniform from ", human_seconds(low), " to ", human_seconds(high)));
  out.tabulate(points_of([&](double u) { return low * std::pow(high / low, u); }));
  return out;
}

ItemTimes ItemTimes::log_normal(double median, double sigma) {
  check_range("log-normal", 0, median);
  check_range("log-normal", 0, sigma);
  ItemTimes out(cat("log-normal, median ", human_seconds(median), ", sigma ", sigma));
  out.tabulate(points_of([&](double u) {
    // The ends of the table stand for the outermost half of a point, not for infinity.
    const double inside = std::clamp(u, 0.5 / kPoints, 1 - 0.5 / kPoints);
    return median * std::exp(sigma * normal_quantile(inside));
  }));
  return out;
}

ItemTimes ItemTimes::recorded(const LogHistogram& seconds, std::string source) {
  if (seconds.empty())
    fail(ErrorKind::Data, {"no times of items are recorded", source, "", "name a stage that has made shards"});
  ItemTimes out("recorded: " + std::move(source));
  std::vector<double> points = points_of([&](double u) { return seconds.quantile(u); });
  out.tabulate(points);
  // The bins round; the sum that was recorded beside them does not.
  const double correction = seconds.mean() / out.mean_;
  for (double& point : points) point *= correction;
  out.tabulate(points);
  out.per_shard_ = true;
  return out;
}

ItemTimes ItemTimes::scaled_to(double mean) const {
  check_range("mean", mean, mean);
  DIVERGEN_CHECK(mean_ > 0, mean_);
  ItemTimes out(cat(text_, ", scaled to a mean of ", human_seconds(mean)));
  std::vector<double> points = table_;
  for (double& point : points) point *= mean / mean_;
  out.tabulate(points);
  out.per_shard_ = per_shard_;
  return out;
}

ItemTimes ItemTimes::parse(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) bad_text(text);
  std::vector<double> numbers;
  for (const std::string& part : split(text.substr(colon + 1), ',')) {
    double number = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), number);
    if (error != std::errc() || end != part.data() + part.size()) bad_text(text);
    numbers.push_back(number);
  }
  const std::string_view name = text.substr(0, colon);
  if (name == "constant" && numbers.size() == 1) return constant(numbers[0]);
  if (numbers.size() != 2) bad_text(text);
  if (name == "uniform") return uniform(numbers[0], numbers[1]);
  if (name == "log-uniform") return log_uniform(numbers[0], numbers[1]);
  if (name == "log-normal") return log_normal(numbers[0], numbers[1]);
  bad_text(text);
}

ItemTimes ItemTimes::of_run(const RunDirectory& dir, const std::string& stage) {
  const std::optional<StageRecord> record = read_record(dir, stage);
  const std::string place = dir.record(stage).string();
  if (!record)
    fail(ErrorKind::Data, {cat("the stage '", stage, "' of this run is not complete"), place,
                           "its record does not exist", cat("finish it, or name another run or distribution")});
  if (record->item_seconds.empty())
    fail(ErrorKind::Data, {"the record holds no times of items", place,
                           "its last start made nothing, or an earlier version of this program wrote it",
                           "name another run, or a "
                           "distribution such as log-normal:MEDIAN,SIGMA"});
  return recorded(record->item_seconds, cat(stage, " of ", dir.root().string(), ", ",
                                            with_thousands(record->item_seconds.count()), " shards"));
}

ItemTimes ItemTimes::of_file(const Path& file) {
  const std::string text = read_file(file);
  try {
    const json parsed = json::parse(text);
    if (parsed.at("format") != kFormat)
      fail(ErrorKind::Data, {"this file does not hold times of items", file.string(),
                             cat("its format is ", parsed.at("format").dump()), "name one that write_item_times made"});
    const auto bins = parsed.at("bins").get<std::vector<std::pair<int, std::int64_t>>>();
    return recorded(LogHistogram::from_bins(bins, parsed.at("sum")), parsed.at("source"));
  } catch (const json::exception& error) {
    fail(ErrorKind::Data, {"times of items cannot be read", file.string(), error.what(), "make the file again"});
  }
}

void write_item_times(const LogHistogram& seconds, const std::string& source, const Path& file) {
  const json out = {{"format", kFormat},
                    {"source", source},
                    {"bins_per_octave", LogHistogram::kBinsPerOctave},
                    {"least_seconds", LogHistogram::kLeast},
                    {"bins", seconds.bins()},
                    {"sum", seconds.sum()}};
  write_file_atomic(file, out.dump() + "\n");
}

}  // namespace divergen::stages
