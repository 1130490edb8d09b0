// Container formats: what detectron2's checkpointer and PyTorch wrote is read with the values they hold. Files and
// expected tensors: fixtures' README of the detector, section ckpt_mini.

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.hpp"
#include "support/fixtures.hpp"
#include "weights/convert.hpp"
#include "weights/torch_file.hpp"
#include "weights/weights.hpp"

namespace divergen::weights {
namespace {

const Path& folder() {
  static const Path kFolder = test::fixtures("detector");
  return kFolder;
}

std::vector<std::byte> values(const WeightSource& source, const Weight& weight) {
  std::vector<std::byte> out(weight.bytes());
  read_as(source, weight, weight.dtype, out);
  return out;
}

void expect_equal(const WeightSource& ours, const Weight& weight, const WeightSource& theirs, const Weight& expected) {
  SCOPED_TRACE(expected.name);
  EXPECT_EQ(to_string(weight.dtype), to_string(expected.dtype));
  EXPECT_EQ(weight.shape, expected.shape);
  EXPECT_EQ(values(ours, weight), values(theirs, expected));
}

/// Our name of a tensor of the expected file: there "optimizer.<i>.<what>", in the checkpoint under "state".
std::string name_in_checkpoint(const std::string& expected) {
  constexpr std::string_view kOptimizer = "optimizer.";
  return expected.starts_with(kOptimizer) ? cat("optimizer.state.", expected.substr(kOptimizer.size())) : expected;
}

}  // namespace

TEST(checkpoint_files, ZipHoldsEveryExpectedTensorAndNoOther) {
  const auto ours = open_weights(folder() / "ckpt_mini.pth"),
             theirs = open_weights(folder() / "ckpt_mini_expected.safetensors");

  EXPECT_EQ(ours->format(), "torch-zip");
  EXPECT_EQ(ours->tensors().size(), theirs->tensors().size());
  for (const Weight& expected : theirs->tensors()) {
    const Weight* weight = ours->find(name_in_checkpoint(expected.name));
    ASSERT_NE(weight, nullptr) << expected.name;
    expect_equal(*ours, *weight, *theirs, expected);
  }
}

TEST(checkpoint_files, NamesTypesAndStridesAreThoseOfTheDescription) {
  const nlohmann::json facts = test::fixture_json(folder() / "ckpt_mini.json");
  const TorchFile file(folder() / "ckpt_mini.pth");
  const std::vector<std::pair<std::string, std::string>> lists{{"model", "model_keys"},
                                                               {"model_ema", "model_ema_keys"}};

  for (const auto& [prefix, list] : lists) {
    std::vector<std::string> names;
    for (const Weight& weight : file.tensors())
      if (weight.name.starts_with(prefix + ".")) names.push_back(weight.name.substr(prefix.size() + 1));
    EXPECT_EQ(names, facts[list].get<std::vector<std::string>>()) << "in the order of the file";
  }
  for (const auto& [name, stride] : facts["strides"].items()) {
    const Weight* weight = file.find("model." + name);
    ASSERT_NE(weight, nullptr) << name;
    EXPECT_EQ(file.view(*weight).stride, stride.get<std::vector<std::int64_t>>()) << name;
  }
  EXPECT_EQ(file.metadata().at("iteration"), std::to_string(facts["iteration"].get<std::int64_t>()));
  for (const auto& key : facts["top_level_keys"]) EXPECT_TRUE(file.has(key.get<std::string>())) << key;
}

TEST(checkpoint_files, LegacyFormHoldsTheSameModel) {
  const auto ours = open_weights(folder() / "ckpt_mini_legacy.pth");
  const auto model = select_prefix(open_weights(folder() / "ckpt_mini_expected.safetensors"), "model.");

  EXPECT_EQ(ours->format(), "torch-legacy");
  EXPECT_EQ(ours->tensors().size(), model->tensors().size());
  for (const Weight& weight : ours->tensors()) {
    const Weight* expected = model->find(weight.name);
    ASSERT_NE(expected, nullptr) << weight.name;
    expect_equal(*ours, weight, *model, *expected);
  }
}

TEST(checkpoint_files, PickleOfArraysIsReadInRowMajorOrder) {
  const TorchFile file(folder() / "pretrained_mini.pkl");
  const auto expected = open_weights(folder() / "ckpt_mini_expected.safetensors");

  EXPECT_EQ(file.format(), "numpy-pickle");
  EXPECT_EQ(file.metadata().at("matching_heuristics"), "True");
  ASSERT_FALSE(file.tensors().empty());
  int known = 0, turned = 0;
  for (const Weight& weight : file.tensors()) {
    ASSERT_TRUE(weight.name.starts_with("model."));
    const std::string suffix = weight.name.substr(6);
    if (const Weight* other = expected->find("model.backbone.bottom_up." + suffix)) {
      ++known;
      expect_equal(file, weight, *expected, *other);
    }
    // By hand: element (i, j) of a column-major matrix lies at i + j·rows.
    const TorchTensor& view = file.view(weight);
    if (weight.shape.size() != 2 || view.stride[0] != 1 || weight.shape[0] < 2 || weight.shape[1] < 2) continue;
    ++turned;
    const std::vector<std::byte> rows = values(file, weight);
    const std::size_t element = size_of(weight.dtype);
    const auto height = static_cast<std::size_t>(weight.shape[0]), width = static_cast<std::size_t>(weight.shape[1]);
    for (std::size_t i = 0; i < height; ++i)
      for (std::size_t j = 0; j < width; ++j)
        EXPECT_TRUE(std::equal(rows.begin() + static_cast<std::ptrdiff_t>((i * width + j) * element),
                               rows.begin() + static_cast<std::ptrdiff_t>((i * width + j + 1) * element),
                               view.storage.begin() + static_cast<std::ptrdiff_t>((i + j * height) * element)));
  }
  EXPECT_GT(known, 0);
  EXPECT_GT(turned, 0) << "there is no column-major array in the file";
}

TEST(checkpoint_files, ConversionKeepsEveryBit) {
  const test::TemporaryFolder out;
  for (const char* name : {"ckpt_mini.pth", "ckpt_mini_legacy.pth", "pretrained_mini.pkl"}) {
    const auto source = open_weights(folder() / name);
    convert_weights(*source, out / "w.safetensors", {});
    EXPECT_EQ(content_hash(*open_weights(out / "w.safetensors")), content_hash(*source)) << name;
  }
}

}  // namespace divergen::weights
