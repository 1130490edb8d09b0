// Copy-paste between training images against the reference's CopyPaste.

#include "stages/augment/self_copy.hpp"
#include "cases.hpp"

namespace divergen::stages::test {

class self_copy : public testing::TestWithParam<std::string> {};

TEST_P(self_copy, EqualsCopyPaste) {
  const Part part("self_copy");
  const auto& one = case_of(part, GetParam());
  Sample ours = part.sample(GetParam() + ".in.dst");
  std::vector<Sample> sources;
  for (std::size_t i = 0; i < one.at("src_hw").size(); ++i)
    sources.push_back(part.sample(cat(GetParam(), ".in.src", i)));
  SelfCopyRules rules;
  rules.select = one.at("selected").get<bool>();
  rules.drop_empty = false;
  {
    Replay draws(one.at("draws"));
    if (one.at("draws").at(0).at("meaning") == "source_image_index") draws.integer("source_image_index", 0, 50);
    divergen::stages::self_copy(ours, std::move(sources), rules, draws);
  }
  EXPECT_EQ((std::vector{ours.rgb.height, ours.rgb.width}), one.at("out_hw").get<std::vector<int>>());
  const Sample expected = part.sample(GetParam() + ".out");
  EXPECT_EQ(difference(ours.rgb, expected.rgb).count, 0U);
  expect_same_objects(ours, expected);
}

INSTANTIATE_TEST_SUITE_P(self_copy, self_copy, testing::ValuesIn(case_names("self_copy")),
                         [](const auto& i) { return i.param; });

}  // namespace divergen::stages::test
