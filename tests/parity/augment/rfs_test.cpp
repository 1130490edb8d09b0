// Repeat-factor sampling against detectron2's sampler: every number, every index.

#include "cases.hpp"
#include "stages/augment/repeat_factor.hpp"

namespace divergen::stages::test {

TEST(rfs, TorchGenerator) {
  const Part part("rfs");
  TorchRandom random(part.json.at("torch_basics").at("seed").get<std::uint64_t>());
  for (const float expected : part.values<float>("torch.rand_40")) EXPECT_EQ(random.uniform(), expected);
  const auto expected = part.values<std::int64_t>("torch.randperm_1000");
  const auto ours = random.permutation(1000);
  EXPECT_EQ(std::vector<std::int64_t>(ours.begin(), ours.end()), expected);
}

class stream : public testing::TestWithParam<std::string> {};

TEST_P(stream, EqualsDetectron2) {
  const Part part("rfs");
  const auto& one = case_of(part, GetParam());
  const auto categories = part.json.at("dataset_category_ids").get<std::vector<std::vector<std::int64_t>>>();
  const auto factors = repeat_factors(categories, one.at("threshold").get<double>());
  EXPECT_EQ(factors, part.values<float>(GetParam() + ".factors"));

  const auto seed = one.at("seed").get<std::uint64_t>();
  TorchRandom random(seed), numbers(seed);
  const RepeatFactorStream stream(factors, seed);
  std::uint64_t position = 0;
  for (std::size_t e = 0; e < one.at("epochs").get<std::size_t>(); ++e) {
    const std::string prefix = GetParam() + ".epoch" + std::to_string(e) + ".";
    for (const float expected : part.values<float>(prefix + "rand")) EXPECT_EQ(numbers.uniform(), expected);
    const auto unshuffled = repeated_indices(factors, random);
    EXPECT_EQ(std::vector<std::int64_t>(unshuffled.begin(), unshuffled.end()),
              part.values<std::int64_t>(prefix + "unshuffled"));
    const auto permutation = random.permutation(unshuffled.size());
    EXPECT_EQ(std::vector<std::int64_t>(permutation.begin(), permutation.end()),
              part.values<std::int64_t>(prefix + "randperm"));
    numbers.permutation(unshuffled.size());
    for (const std::int64_t expected : part.values<std::int64_t>(prefix + "order"))
      EXPECT_EQ(static_cast<std::int64_t>(stream[position++]), expected);
  }
  ASSERT_GT(position, 0U);
}

INSTANTIATE_TEST_SUITE_P(rfs, stream, testing::ValuesIn(case_names("rfs")), [](const auto& i) { return i.param; });

}  // namespace divergen::stages::test
