// The Poisson blend against the reference's sparse solver.

#include <cmath>

#include "cases.hpp"
#include "stages/augment/blend.hpp"

namespace divergen::stages::test {

class poisson : public testing::TestWithParam<std::string> {};

TEST_P(poisson, EqualsTheSparseSolver) {
  const Part part("poisson");
  const image::Image patch = part.picture(GetParam() + ".src");
  image::Image canvas = part.picture(GetParam() + ".dst");
  const BoxMask mask = box_mask(part.picture(GetParam() + ".mask"));
  const auto expected = part.values<double>(GetParam() + ".solution_f64");
  const auto ours = poisson_solution(canvas, patch, 0, 0, mask);
  ASSERT_EQ(ours.size(), expected.size());
  double largest = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) largest = std::max(largest, std::abs(ours[i] - expected[i]));
  EXPECT_LT(largest, 1e-10);
  blend(canvas, patch, 0, 0, mask, Blend::Poisson);
  // The reference truncates: where the exact value is whole, its last bits decide.
  EXPECT_LE(difference(canvas, part.picture(GetParam() + ".out")).largest, 1);
}

INSTANTIATE_TEST_SUITE_P(poisson, poisson, testing::ValuesIn(case_names("poisson")),
                         [](const auto& i) { return i.param; });

}  // namespace divergen::stages::test
