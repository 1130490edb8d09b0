// Names and shapes of the full-size networks, against the state_dict of the original classes. Made on the meta device:
// shapes and no memory.

#include <gtest/gtest.h>

#include <fstream>

#include "base/text.hpp"
#include "formula.hpp"
#include "models/annotators/clipseg.hpp"
#include "models/annotators/matteformer.hpp"
#include "models/annotators/selfreformer.hpp"
#include "models/annotators/u2net.hpp"
#include "models/annotators/ufo.hpp"

namespace divergen::models {
namespace {

using Table = std::map<std::string, std::string>;

Table table(const std::string& name) {
  std::ifstream in(test::annotator_fixtures() / "keys" / (name + ".tsv"));
  Table out;
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    const auto columns = split(line, '\t');
    out[columns.at(0)] = cat(columns.at(1), columns.size() > 2 ? " int64" : "");
  }
  EXPECT_FALSE(out.empty()) << name;
  return out;
}

Table table_of(const nn::Module& module) {
  Table out;
  for (const nn::NamedTensor& entry : module.named_tensors()) {
    std::string shape;
    for (const std::int64_t size : entry.tensor.sizes()) shape += cat(shape.empty() ? "" : "x", size);
    out[entry.name] =
        cat(shape.empty() ? "scalar" : shape, at::isFloatingType(entry.tensor.scalar_type()) ? "" : " int64");
  }
  return out;
}

template <class Model, class... Args>
Table shapes_of(Args&&... args) {
  const nn::NewTensors meta(at::TensorOptions().device(at::kMeta).dtype(at::kFloat));
  return table_of(Model(std::forward<Args>(args)...));
}

/// position_ids are written by some versions of transformers and not by others.
Table without_positions(Table table) {
  std::erase_if(table, [](const auto& entry) { return is_optional_clip_key(entry.first); });
  return table;
}

TEST(keys, U2Net) {
  EXPECT_EQ(shapes_of<U2Net>(U2NetSizes::published("u2net")), table("u2net"));
  // The small one has the same names (and its shapes: networks_test.cpp gives its layers the original's values).
  const Table large = table("u2net"), small = shapes_of<U2Net>(U2NetSizes::published("u2netp"));
  EXPECT_TRUE(std::equal(large.begin(), large.end(), small.begin(), small.end(),
                         [](const auto& a, const auto& b) { return a.first == b.first; }));
}
TEST(keys, Ufo) { EXPECT_EQ(shapes_of<Ufo>(UfoSizes{}), table("ufo")); }
TEST(keys, SelfReformer) { EXPECT_EQ(shapes_of<SelfReformer>(), table("selfreformer")); }
TEST(keys, MatteFormer) { EXPECT_EQ(shapes_of<MatteFormer>(), table("matteformer")); }

TEST(keys, ClipSeg) {
  // What CIDAS/clipseg-rd64-refined says beyond the library's defaults; without the last key, one convolution stands
  // for its three (clipseg-rd64-uni, the weights of X-Paste).
  nlohmann::json config{{"vision_config", {{"patch_size", 16}}}, {"use_complex_transposed_convolution", true}};
  Table expected = without_positions(table("clipseg_rd64_refined"));
  EXPECT_EQ(without_positions(shapes_of<ClipSeg>(ClipSegConfig::from(ModelConfig(config, "config.json")))), expected);

  config.erase("use_complex_transposed_convolution");
  std::erase_if(expected, [](const auto& entry) { return entry.first.starts_with("decoder.transposed_convolution."); });
  expected["decoder.transposed_convolution.weight"] = "64x1x16x16";
  expected["decoder.transposed_convolution.bias"] = "1";
  EXPECT_EQ(without_positions(shapes_of<ClipSeg>(ClipSegConfig::from(ModelConfig(config, "config.json")))), expected);
}

}  // namespace
}  // namespace divergen::models
