#include "nn/scale_finite.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <limits>

namespace divergen::nn {
namespace {

at::Tensor numbers() {
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
  at::Tensor out = at::randn({1003}, generator);
  out.slice(0, 10, 20) *= 1e-40;  // denormal
  out.slice(0, 20, 30) *= 1e38;
  return out;
}

bool scale(at::Tensor& values, double factor) {
  return scale_finite(values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel()),
                      static_cast<float>(factor));
}

TEST(ScaleFinite, EqualsMultiplicationToTheLastBit) {
  for (const double factor : {1.0, 1.0 / 2, 1.0 / 3, 1.0 / 7, 1.0 / 1000}) {
    at::Tensor values = numbers();
    EXPECT_TRUE(scale(values, factor));
    const at::Tensor plain = numbers().mul_(factor);
    EXPECT_TRUE(at::equal(values.view(at::kInt), plain.view(at::kInt))) << factor;
  }
}

TEST(ScaleFinite, SeesEveryBadNumberWhereverItStands) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()})
    for (const std::int64_t at : {0, 1, 7, 8, 500, 1000, 1002}) {
      at::Tensor values = numbers();
      values[at] = bad;
      EXPECT_FALSE(scale(values, 0.5)) << bad << " at " << at;
    }
  at::Tensor most = at::full({9}, std::numeric_limits<float>::max());
  EXPECT_TRUE(scale(most, 0.5)) << "the largest number is finite";
  EXPECT_TRUE(scale_finite(nullptr, 0, 1));
}

}  // namespace
}  // namespace divergen::nn
