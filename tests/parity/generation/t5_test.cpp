// T5's encoder against transformers.

#include <gtest/gtest.h>

#include <c10/util/irange.h>

#include <iostream>

#include "models/t5/encoder.hpp"
#include "support/fixtures_torch.hpp"

namespace divergen::models {
namespace {

// reference/generation.md §5: the reference against itself differs by up to 3.2e-6 in single forwards; gate 2e-5.
constexpr double kForward = 2e-5;

Path folder() { return test::fixtures("generation"); }

/// A half type rounds at many places, and kernels that sum in another order round otherwise: the gate is what the type
/// itself costs the reference (its distance from its own float32 result). On processors with the reference's kernels
/// the results are equal to the bit; the share is reported.
void expect_half(at::ScalarType type, const std::string& name) {
  at::NoGradGuard no_grad;
  const auto expected = test::fixture_tensors(folder() / "t5_encoder.safetensors");
  const auto model = load_t5(folder() / "t5_tiny", type);
  const at::Tensor out = model->forward(expected.at("input_ids"), expected.at("attention_mask"));
  const at::Tensor& reference = expected.at(cat("last_hidden_state_", name));
  EXPECT_EQ(out.scalar_type(), reference.scalar_type());
  const at::Tensor cost = (reference.to(at::kFloat) - expected.at("last_hidden_state")).abs();
  const at::Tensor difference = (out.to(at::kFloat) - reference.to(at::kFloat)).abs();
  EXPECT_LE(difference.max().item<double>(), 2 * cost.max().item<double>());
  EXPECT_LE(difference.mean().item<double>(), cost.mean().item<double>());
  const auto share = std::to_string(out.eq(reference).to(at::kFloat).mean().item<double>());
  testing::Test::RecordProperty("share_equal_to_the_bit", share);
  std::cout << "equal to the bit: " << share << '\n';
}

}  // namespace

TEST(t5, EqualsTransformersLayerByLayer) {
  at::NoGradGuard no_grad;
  const auto model = load_t5(folder() / "t5_tiny");
  const auto expected = test::fixture_tensors(folder() / "t5_encoder.safetensors");
  const at::Tensor &ids = expected.at("input_ids"), &mask = expected.at("attention_mask");

  EXPECT_TENSOR_NEAR(model->forward(ids, mask), expected.at("last_hidden_state"), kForward);

  std::vector<at::Tensor> states;
  model->forward(ids.narrow(0, 0, 1), mask.narrow(0, 0, 1), &states);
  ASSERT_EQ(static_cast<std::int64_t>(states.size()), model->config.layers + 1);
  for (const auto i : c10::irange(states.size())) {
    const at::Tensor& reference = expected.at(cat("hidden_", i, "_b0"));
    EXPECT_TENSOR_NEAR(states[i], reference, kForward * std::max(1.0, reference.abs().max().item<double>()))
        << "layer " << i;
  }
}

TEST(t5, PositionsAreBucketedAndBiasedAsInTransformers) {
  at::NoGradGuard no_grad;
  const auto model = load_t5(folder() / "t5_tiny");
  std::size_t tables = 0;
  for (const auto& [name, reference] : test::fixture_tensors(folder() / "t5_encoder.safetensors")) {
    if (name.starts_with("position_bias_")) {
      EXPECT_TENSOR_NEAR(model->position_bias(std::stoll(name.substr(14))), reference, 0);
      ++tables;
    } else if (name.starts_with("bucket_of_rel_minus")) {  // bucket_of_rel_minus300_to_300
      const at::Tensor relative =
          at::arange(-std::stoll(name.substr(19)), std::stoll(name.substr(name.rfind('_') + 1)) + 1);
      EXPECT_TRUE(
          at::equal(t5_position_buckets(relative, model->config.buckets, model->config.max_distance), reference));
      ++tables;
    }
  }
  EXPECT_EQ(tables, 2U);
}

TEST(t5, Float16EqualsTransformers) { expect_half(at::kHalf, "fp16"); }
TEST(t5, BFloat16EqualsTransformers) { expect_half(at::kBFloat16, "bf16"); }

TEST(t5, Float16KeepsItsOutputProjectionsInFloat32) {
  const auto model = load_t5(folder() / "t5_tiny", at::kHalf);
  for (const auto& entry : model->named_tensors())
    EXPECT_EQ(entry.tensor.scalar_type(), entry.name.ends_with(".wo.weight") ? at::kFloat : at::kHalf) << entry.name;
  // Converting a float32 model is the same as loading it in half precision.
  const auto converted = load_t5(folder() / "t5_tiny");
  converted->convert(at::kHalf);
  const auto ours = converted->named_tensors(), theirs = model->named_tensors();
  for (const auto i : c10::irange(ours.size())) {
    EXPECT_EQ(ours[i].tensor.scalar_type(), theirs[i].tensor.scalar_type()) << ours[i].name;
    EXPECT_TRUE(at::equal(ours[i].tensor, theirs[i].tensor)) << ours[i].name;
  }
}

TEST(t5, LearnsThroughAllItsParameters) {
  const auto model = load_t5(folder() / "t5_tiny");
  const auto expected = test::fixture_tensors(folder() / "t5_encoder.safetensors");
  model->requires_grad(true);
  const at::Tensor out = model->forward(expected.at("input_ids"), expected.at("attention_mask"));
  const at::Tensor loss = (out * at::linspace(-1, 1, out.numel()).view(out.sizes())).sum();
  loss.backward();
  // The slope along the gradient, by finite differences, is the gradient's squared length.
  at::NoGradGuard no_grad;
  double squared = 0;
  for (const auto& entry : model->named_parameters()) {
    ASSERT_TRUE(entry.tensor.grad().defined()) << entry.name;
    EXPECT_GT(entry.tensor.grad().abs().max().item<double>(), 0) << entry.name;
    squared += entry.tensor.grad().to(at::kDouble).pow(2).sum().item<double>();
  }
  const double step = 1e-3 / std::sqrt(squared);
  const auto loss_at = [&](double distance) {
    const nn::NewTensors scope(at::TensorOptions().dtype(at::kDouble));
    T5Encoder moved(model->config);
    const auto from = model->named_parameters(), to = moved.named_parameters();
    for (const auto i : c10::irange(to.size())) {
      at::Tensor target = to[i].tensor;
      target.copy_(from[i].tensor.to(at::kDouble) + distance * from[i].tensor.grad().to(at::kDouble));
    }
    const at::Tensor y = moved.forward(expected.at("input_ids"), expected.at("attention_mask"));
    return (y * at::linspace(-1, 1, y.numel()).view(y.sizes())).sum().item<double>();
  };
  const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
  EXPECT_NEAR(slope, squared, 1e-2 * squared);
}

}  // namespace divergen::models
