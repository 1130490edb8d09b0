// The evaluator against lvis-api, to the last bit: summaries, the arrays of precision and recall, every category.

#include <gtest/gtest.h>
#include <zlib.h>

#include <bit>
#include <cmath>

#include "base/error.hpp"
#include "lvis/evaluator.hpp"
#include "support/fixtures.hpp"
#include "support/sha256.hpp"

namespace divergen::lvis {
namespace {

void gunzip(const Path& from, const Path& to) {
  gzFile file = gzopen(from.c_str(), "rb");
  ASSERT_NE(file, nullptr) << from;
  std::string out(1 << 16, '\0'), all;
  int n = 0;
  while ((n = gzread(file, out.data(), static_cast<unsigned>(out.size()))) > 0)
    all.append(out, 0, static_cast<std::size_t>(n));
  EXPECT_EQ(n, 0) << from;
  gzclose(file);
  write_file_atomic(to, all);
}

std::string hash_of(const std::vector<double>& array) { return test::Sha256::of(std::as_bytes(std::span(array))); }

/// `exact` has what lvis-api gave for the same files.
void expect_same(const Evaluation& ours, const nlohmann::json& exact) {
  for (const char* name : Summary::kNames) {
    const double reference = std::strtod(exact.at("metrics_hex").at(name).get<std::string>().c_str(), nullptr);
    EXPECT_EQ(std::bit_cast<std::uint64_t>(ours.summary[name]), std::bit_cast<std::uint64_t>(reference)) << name;
  }
  EXPECT_EQ(hash_of(ours.precision()), exact.at("precision_sha256").get<std::string>());
  EXPECT_EQ(hash_of(ours.recall()), exact.at("recall_sha256").get<std::string>());
  const auto& per_category = exact.at("per_category");
  for (const CategoryScores& scores : ours.categories) {
    const auto found = per_category.find(std::to_string(scores.id));
    if (found == per_category.end()) {
      EXPECT_EQ(scores.detections, 0) << scores.id;
      continue;
    }
    for (std::size_t i = 0; i < scores.values.size(); ++i)
      EXPECT_EQ(scores.values[i], found->at(CategoryScores::kNames[i]).get<double>())
          << CategoryScores::kNames[i] << " of " << scores.id;
    EXPECT_EQ(scores.detections, found->at("dets_kept").get<std::int64_t>()) << scores.id;
  }
}

IouType type_of(const nlohmann::json& entry) { return entry.at("iou_type") == "bbox" ? IouType::Box : IouType::Mask; }

std::vector<std::string> names(bool edges) {
  std::vector<std::string> out;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(test::fixtures("eval"), ignored)) {
    const std::string stem = entry.path().stem().string();
    if (entry.path().extension() != ".json" || stem == "edge_table" || stem == "MANIFEST") continue;
    if (stem.starts_with("coco_") || stem.starts_with("edge_") != edges) continue;
    out.push_back(stem);
  }
  std::sort(out.begin(), out.end());
  return out;
}

/// Ground truth and results of a set: compressed beside it, or as the generator of the fixtures wrote them
/// ($DIVERGEN_EVAL_DATA/s010/{gt,bbox,segm}.json), for those that are too large for a fixture.
class golden : public testing::TestWithParam<std::string> {
 protected:
  bool find_inputs() {
    const std::string set = GetParam().substr(0, GetParam().find('_')), kind = GetParam().substr(set.size() + 1);
    const Path inputs = test::fixtures("eval") / "inputs";
    const Path gt = inputs / (set == "val100" ? "lvis_val_100.json.gz" : set + "_gt.json.gz");
    const Path dt = inputs / (GetParam() + ".json.gz");
    if (std::filesystem::exists(gt) && std::filesystem::exists(dt)) {
      gunzip(gt, truth_ = scratch_ / "gt.json");
      gunzip(dt, results_ = scratch_ / "dt.json");
      return true;
    }
    const char* data = std::getenv("DIVERGEN_EVAL_DATA");
    if (data == nullptr) return false;
    truth_ = Path(data) / set / "gt.json", results_ = Path(data) / set / (kind + ".json");
    return std::filesystem::exists(truth_) && std::filesystem::exists(results_);
  }
  test::TemporaryFolder scratch_;
  Path truth_, results_;
};

class edge : public testing::TestWithParam<std::string> {};

}  // namespace

TEST_P(golden, EqualsLvisApi) {
  if (!find_inputs()) GTEST_SKIP() << "the inputs of this set are not here";
  const auto exact = test::fixture_json(test::fixtures("eval") / cat(GetParam(), ".json"));
  EvaluationOptions options{type_of(exact)};
  const Dataset truth = read_dataset(truth_);
  expect_same(evaluate_file(truth, results_, options), exact);

  options.threads = 5;  // more pieces, in another order: the same bits
  expect_same(evaluate_file(truth, results_, options), exact);
}

TEST_P(golden, IsTheSameFromMemory) {
  if (!find_inputs()) GTEST_SKIP() << "the inputs of this set are not here";
  const auto exact = test::fixture_json(test::fixtures("eval") / cat(GetParam(), ".json"));
  const Dataset truth = read_dataset(truth_);
  expect_same(evaluate(truth, read_results(results_, truth, type_of(exact)), type_of(exact)), exact);
}

INSTANTIATE_TEST_SUITE_P(sets, golden, testing::ValuesIn(names(false)), [](const auto& info) { return info.param; });

TEST_P(edge, HasTheOutcomeOfLvisApi) {
  const std::string text = read_file(test::fixtures("eval") / cat(GetParam(), ".json"));
  // NaN is not JSON. lvis-api's parser takes it and sorts it last; a detector that writes it is broken, so we refuse.
  const bool has_nan = text.find(": NaN") != std::string::npos;
  std::string readable = text;
  for (std::size_t at = 0; (at = readable.find(": NaN")) != std::string::npos;) readable.replace(at, 5, ": \"NaN\"");
  const auto entry = nlohmann::json::parse(readable);
  SCOPED_TRACE(entry.value("note", ""));
  const std::string gt = entry.at("gt").dump();
  std::string dt = entry.at("dt").dump();
  for (std::size_t at = 0; (at = dt.find("\"NaN\"")) != std::string::npos;) dt.replace(at, 5, "NaN");
  const IouType type = type_of(entry);
  const auto outcome = [&] { return evaluate_text(parse_dataset(gt, "gt.json"), dt, "dt.json", {type}); };

  if (has_nan || entry.at("expected").contains("exception")) {
    try {
      outcome();
      ADD_FAILURE() << "it was not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Data);
      EXPECT_FALSE(error.text().object.empty());
    }
  } else {
    const Dataset truth = parse_dataset(gt, "gt.json");
    expect_same(evaluate_text(truth, dt, "dt.json", {type}), entry.at("expected"));
  }
}

INSTANTIATE_TEST_SUITE_P(cases, edge, testing::ValuesIn(names(true)),
                         [](const auto& info) { return info.param.substr(5); });

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(golden);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(edge);

}  // namespace divergen::lvis
