// LVIS summaries against lvis-api, to the last bit.

#include <gtest/gtest.h>
#include <zlib.h>

#include <cmath>

#include "base/error.hpp"
#include "lvis/evaluator.hpp"
#include "support/fixtures.hpp"

namespace divergen::lvis {
namespace {

std::string gunzip(const Path& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  std::string out;
  char buffer[1 << 16];
  int n = 0;
  while (file != nullptr && (n = gzread(file, buffer, sizeof buffer)) > 0)
    out.append(buffer, static_cast<std::size_t>(n));
  if (file != nullptr) gzclose(file);
  return out;
}

void compare(const Evaluation& ours, const nlohmann::json& expected) {
  for (const char* name : Summary::kNames) {
    const double reference = std::strtod(expected.at(name).get<std::string>().c_str(), nullptr);
    EXPECT_EQ(ours.summary[name], reference) << name;
  }
}

struct Case {
  const char *name, *truth;
};

class golden : public testing::TestWithParam<Case> {};
class edge : public testing::TestWithParam<std::string> {};

std::size_t replace_all(std::string& text, const std::string& what, const std::string& with) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size()), ++count)
    text.replace(at, what.size(), with);
  return count;
}

std::vector<std::string> edge_names() {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(test::fixtures("eval"), ignored)) {
    const std::string stem = entry.path().stem().string();
    if (stem.starts_with("edge_") && stem != "edge_table" && entry.path().extension() == ".json") names.push_back(stem);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_P(golden, EqualsLvisApi) {
  const Path folder = test::fixtures("eval");
  const Path results_file = folder / cat("inputs/", GetParam().name, ".json.gz"),
             truth_file = folder / cat("inputs/", GetParam().truth, ".json.gz");
  if (!std::filesystem::exists(results_file) || !std::filesystem::exists(truth_file))
    GTEST_SKIP() << "this set has not these inputs";
  const test::TemporaryFolder scratch;
  write_file_atomic(scratch / "gt.json", gunzip(truth_file));
  write_file_atomic(scratch / "dt.json", gunzip(results_file));
  const auto expected = test::fixture_json(folder / cat(GetParam().name, ".json"));
  const IouType type = expected.at("iou_type") == "bbox" ? IouType::Box : IouType::Mask;

  const Dataset truth = read_dataset(scratch / "gt.json");
  const Evaluation ours = evaluate(truth, read_results(scratch / "dt.json", truth, type), type);

  compare(ours, expected.at("metrics_hex"));
}

INSTANTIATE_TEST_SUITE_P(sets, golden,
                         testing::Values(Case{"val100_bbox", "lvis_val_100"}, Case{"val100_segm", "lvis_val_100"},
                                         Case{"s001_bbox", "s001_gt"}, Case{"s001_segm", "s001_gt"}),
                         [](const auto& info) { return info.param.name; });

TEST_P(edge, HasTheOutcomeOfLvisApi) {
  std::string text = read_file(test::fixtures("eval") / cat(GetParam(), ".json"));
  // NaN is not JSON. lvis-api's parser takes it and sorts it last; a detector that writes it is broken, so we refuse.
  const bool has_nan = replace_all(text, ": NaN", ": \"NaN\"") > 0;
  const auto entry = nlohmann::json::parse(text);
  SCOPED_TRACE(entry.value("note", ""));
  const test::TemporaryFolder scratch;
  write_file_atomic(scratch / "gt.json", entry.at("gt").dump());
  write_file_atomic(scratch / "dt.json", entry.at("dt").dump());
  const IouType type = entry.at("iou_type") == "bbox" ? IouType::Box : IouType::Mask;
  const bool must_refuse = has_nan || entry.at("expected").contains("exception");

  if (must_refuse) {
    EXPECT_THROW(
        {
          const Dataset truth = read_dataset(scratch / "gt.json");
          evaluate(truth, read_results(scratch / "dt.json", truth, type), type);
        },
        Error);
  } else {
    const Dataset truth = read_dataset(scratch / "gt.json");
    compare(evaluate(truth, read_results(scratch / "dt.json", truth, type), type),
            entry.at("expected").at("metrics_hex"));
  }
}

INSTANTIATE_TEST_SUITE_P(cases, edge, testing::ValuesIn(edge_names()),
                         [](const auto& info) { return info.param.substr(5); });

}  // namespace divergen::lvis
