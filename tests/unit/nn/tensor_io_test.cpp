#include "nn/tensor_io.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.hpp"
#include "nn/layers.hpp"
#include "support/child.hpp"
#include "support/fixtures_torch.hpp"
#include "support/weight_files.hpp"
#include "weights/weights.hpp"

namespace divergen::nn {

TEST(TensorIo, LoadsHalfPrecisionFilesIntoFloatModules) {
  const test::TemporaryFolder folder;
  Linear source(3, 2), target(3, 2);
  at::NoGradGuard no_grad;
  source.weight.fill_(0.5);
  source.bias.fill_(-2);

  save_module(source, folder / "w.safetensors", at::kHalf);
  load_module(target, folder / "w.safetensors");

  EXPECT_EQ(target.weight.scalar_type(), at::kFloat);
  EXPECT_TENSOR_NEAR(target.weight, source.weight, 0);
  EXPECT_TENSOR_NEAR(target.bias, source.bias, 0);
}

TEST(TensorIo, NamesEveryKeyThatDoesNotFit) {
  Linear module(3, 2);
  TensorMap tensors{{"weight", at::zeros({2, 4})}, {"extra", at::zeros({1})}};

  try {
    load_module(module, tensors, "file.safetensors");
    FAIL() << "accepted";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("missing 'bias'"), std::string::npos) << text;
    EXPECT_NE(text.find("expected [2, 3], found [2, 4]"), std::string::npos) << text;
    EXPECT_NE(text.find("surplus 'extra'"), std::string::npos) << text;
  }
}

TEST(TensorIo, NamesTypesOfAnotherKindAndValuesThatAreNotFinite) {
  Linear module(3, 2);
  const auto refusal = [&](const TensorMap& tensors) {
    try {
      load_module(module, tensors, "file.safetensors");
      return std::string("accepted");
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  const at::Tensor weight = at::zeros({2, 3}), bias = at::zeros({2});
  EXPECT_EQ(refusal({{"weight", weight}, {"bias", bias}}), "accepted");
  const std::string kind = refusal({{"weight", weight}, {"bias", bias.to(at::kLong)}});
  EXPECT_NE(kind.find("wrong dtype of 'bias': expected F32, found I64"), std::string::npos) << kind;
  const std::string value = refusal({{"weight", weight}, {"bias", bias / 0}});
  EXPECT_NE(value.find("file.safetensors [bias]"), std::string::npos) << value;
}

TEST(TensorIo, ConvertsAsLibTorchDoes) {
  const test::TemporaryFolder folder;
  // All halves, and floats of every magnitude between and beyond them.
  at::Tensor floats = at::arange(0, 65536, at::kInt).to(at::kShort).view(at::kHalf).to(at::kFloat);
  floats = at::cat({floats, floats * 1.0003f, floats * 7e-6f, floats * 3e30f});
  floats = floats.masked_select(at::isfinite(floats)).contiguous();
  save_tensors(folder / "f.safetensors", {{"w", floats}, {"d", floats.to(at::kDouble) * 1.0000001}});
  const auto source = weights::open_weights(folder / "f.safetensors");
  const TensorMap stored = load_tensors(folder / "f.safetensors");

  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kDouble, at::kFloat})
    for (const char* name : {"w", "d"}) {
      at::Tensor ours = at::empty({floats.numel()}, type);
      weights::read_as(*source, *source->find(name), to_dtype(type),
                       {static_cast<std::byte*>(ours.mutable_data_ptr()), static_cast<std::size_t>(ours.nbytes())});
      EXPECT_TRUE(at::equal(ours, stored.at(name).to(type))) << name << " to " << at::toString(type);
    }
}

TEST(TensorIo, FillsModulesInAnyMemoryFormatFromACheckpointOfPyTorch) {
  const test::TemporaryFolder folder;
  const std::vector<test::FileTensor> tensors{test::float_tensor("weight", {4, 2, 3, 3}),
                                              test::float_tensor("bias", {4})};
  write_file_atomic(folder / "w.pth", test::torch_zip(tensors));
  Conv2d module(2, 4, {.kernel = 3});
  for (auto& [name, slot] : module.named_slots())
    if (slot->dim() == 4) *slot = slot->contiguous(at::MemoryFormat::ChannelsLast);
  ASSERT_FALSE(module.weight.is_contiguous());

  load_module(module, folder / "w.pth");

  EXPECT_TENSOR_NEAR(module.weight, (at::arange(72, at::kFloat) + 0.5).view({4, 2, 3, 3}), 0);
  EXPECT_TENSOR_NEAR(module.bias, at::arange(4, at::kFloat) + 0.5, 0);
}

TEST(TensorIo, LoadingAModuleTakesAFewMegabytesBesideIt) {
  if (!test::kMeasuresMemory) GTEST_SKIP() << "sanitizers keep memory of their own";
  const test::TemporaryFolder folder;
  constexpr std::int64_t kSide = 4096;  // 64 MB in the file, 32 MB in the module
  Linear large(kSide, kSide), small(3, 2);
  at::NoGradGuard no_grad;
  large.weight.fill_(0.5);
  large.bias.fill_(1);
  save_module(large, folder / "large.safetensors", at::kFloat);
  small.weight.fill_(0.5);
  small.bias.fill_(1);
  save_module(small, folder / "small.safetensors", at::kFloat);
  const NewTensors half(at::TensorOptions().dtype(at::kHalf));
  const auto load = [&](std::int64_t in, std::int64_t out, const char* file) {
    Linear module(in, out);
    load_module(module, folder / file);
    return cat(module.weight[0][0].item<float>());
  };

  const auto outcome = test::in_child([&] { return load(kSide, kSide, "large.safetensors"); }, false,
                                      [&] { load(3, 2, "small.safetensors"); });

  EXPECT_EQ(outcome.text, "0.5");
  EXPECT_LT(static_cast<double>(outcome.grown), 1.15 * 2 * kSide * kSide);
}

}  // namespace divergen::nn
