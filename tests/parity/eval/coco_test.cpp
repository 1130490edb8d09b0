// COCO's rules against pycocotools, to the last bit (tools/make_coco_goldens.py made the cases).

#include <gtest/gtest.h>

#include <bit>

#include "lvis/evaluator.hpp"
#include "support/fixtures.hpp"
#include "support/sha256.hpp"

namespace divergen::lvis {
namespace {

std::string hash_of(const std::vector<double>& array) { return test::Sha256::of(std::as_bytes(std::span(array))); }

std::vector<std::string> names() {
  std::vector<std::string> out;
  // They are ours, and no part of a given set of fixtures.
  for (const auto& entry :
       std::filesystem::directory_iterator(Path(DIVERGEN_SOURCE_DIR) / "tests" / "fixtures" / "eval"))
    if (entry.path().filename().string().starts_with("coco_")) out.push_back(entry.path().stem().string());
  std::sort(out.begin(), out.end());
  return out;
}

class coco : public testing::TestWithParam<std::string> {};

}  // namespace

TEST_P(coco, EqualsPycocotools) {
  const auto entry = test::fixture_json(Path(DIVERGEN_SOURCE_DIR) / "tests/fixtures/eval" / (GetParam() + ".json"));
  EvaluationOptions options{entry.at("iou_type") == "bbox" ? IouType::Box : IouType::Mask, Protocol::Coco};
  for (const unsigned threads : {1U, 3U}) {
    options.threads = threads;
    const Dataset truth = parse_dataset(entry.at("gt").dump(), "gt.json");
    const Evaluation ours = evaluate_text(truth, entry.at("dt").dump(), "dt.json", options);
    const auto& expected = entry.at("expected");
    ASSERT_EQ(ours.summary.size(), expected.at("stats_hex").size());
    for (std::size_t i = 0; i < ours.summary.size(); ++i)
      EXPECT_EQ(
          std::bit_cast<std::uint64_t>(ours.summary.values[i]),
          std::bit_cast<std::uint64_t>(std::strtod(expected.at("stats_hex").at(i).get<std::string>().c_str(), nullptr)))
          << ours.summary.name(i) << " " << ours.summary.values[i];
    EXPECT_EQ(hash_of(ours.precision()), expected.at("precision_sha256").get<std::string>());
    EXPECT_EQ(hash_of(ours.recall()), expected.at("recall_sha256").get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(cases, coco, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

}  // namespace divergen::lvis
