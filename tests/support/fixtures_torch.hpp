#pragma once
// Tensors of the fixtures, and how closely ours must agree with them.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/tensor_io.hpp"
#include "support/fixtures.hpp"

namespace divergen::test {

inline nn::TensorMap fixture_tensors(const Path& path) { return nn::load_tensors(path); }

/// Same shape, and no element further away than `tolerance`. NaN equals NaN.
inline testing::AssertionResult tensors_near(const at::Tensor& ours, const at::Tensor& reference, double tolerance) {
  if (ours.sizes() != reference.sizes())
    return testing::AssertionFailure() << "shape " << ours.sizes() << ", expected " << reference.sizes();
  if (ours.numel() == 0) return testing::AssertionSuccess();
  const at::Tensor a = ours.detach().to(at::kDouble), b = reference.to(at::kDouble);
  if (!at::equal(a.isnan(), b.isnan())) return testing::AssertionFailure() << "NaN in other places";
  const at::Tensor same_infinity = a.isinf().logical_and(a.eq(b));
  const at::Tensor difference = (a - b).abs().masked_fill(same_infinity.logical_or(a.isnan()), 0);
  const double worst = difference.max().item<double>();
  if (worst <= tolerance) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "differs by " << worst << " at element "
                                     << difference.argmax().item<std::int64_t>() << " of " << ours.sizes()
                                     << ", allowed " << tolerance << " (largest reference value "
                                     << b.abs().max().item<double>() << ")";
}

}  // namespace divergen::test

#define EXPECT_TENSOR_NEAR(ours, reference, tolerance) \
  EXPECT_TRUE(::divergen::test::tensors_near(ours, reference, tolerance))
