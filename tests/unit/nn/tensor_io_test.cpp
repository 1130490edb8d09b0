#include "nn/tensor_io.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "nn/layers.hpp"
#include "support/fixtures_torch.hpp"

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

}  // namespace divergen::nn
