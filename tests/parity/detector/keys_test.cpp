// Names, order, shapes and types of the full-size detectors against the key tables of the reference.

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "models/detector/centernet2.hpp"
#include "support/fixtures_torch.hpp"
#include "weights/safetensors.hpp"

namespace divergen::models {
namespace {

struct Table {
  const char *name, *keys, *parameters, *backbone;
  std::size_t classes, lines;
};

/// One line as the tables have it: kind, name, type, shape.
std::string line_of(const nn::NamedTensor& t) {
  std::string shape;
  for (const std::int64_t n : t.tensor.sizes()) shape += (shape.empty() ? "" : "x") + std::to_string(n);
  const char* kind = t.is_parameter ? "param" : t.is_persistent ? "buffer" : "nonpersistent_buffer";
  return std::string(kind) + "\t" + t.name + "\t" + (t.tensor.scalar_type() == at::kLong ? "int64" : "float32") + "\t" +
         (shape.empty() ? "scalar" : shape);
}

std::vector<std::string> lines_of(const std::string& name) {
  std::ifstream in(Path(DIVERGEN_SOURCE_DIR) / "tests" / "fixtures" / "detector" / name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

class keys : public testing::TestWithParam<Table> {
 protected:
  static CenterNet2 make() {
    const nn::NewTensors meta(at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
    config::DetectorSettings settings;
    settings.backbone = GetParam().backbone;
    if (settings.backbone == "swin") settings.depths = {2, 2, 18, 2};
    return CenterNet2(settings, std::vector<double>(GetParam().classes, 1.0));
  }
};

}  // namespace

TEST_P(keys, EqualTheTable) {
  const CenterNet2 detector = make();
  std::vector<std::string> ours, not_saved;
  for (const nn::NamedTensor& t : detector.named_tensors()) (t.is_persistent ? ours : not_saved).push_back(line_of(t));
  ours.insert(ours.end(), not_saved.begin(), not_saved.end());  // the tables have them last
  std::vector<std::string> expected = lines_of(GetParam().keys);
  ASSERT_EQ(expected.size(), GetParam().lines + 1);
  expected.erase(expected.begin());                                 // the head
  for (std::string& line : expected) line.erase(line.rfind('\t'));  // requires_grad
  ASSERT_EQ(ours.size(), expected.size());
  for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_EQ(ours[i], expected[i]) << "line " << i;
}

TEST_P(keys, ParametersAreInTheOptimizersOrder) {
  std::vector<std::string> ours;
  for (const nn::NamedTensor& p : make().named_parameters()) ours.push_back(p.name);
  const std::vector<std::string> expected = lines_of(GetParam().parameters);
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(ours, expected);
}

INSTANTIATE_TEST_SUITE_P(of, keys,
                         testing::Values(Table{"r50", "keys_r50.tsv", "param_order_r50.txt", "resnet", 1203, 402},
                                         Table{"swinL", "keys_swinL.tsv", "param_order_swinL.txt", "swin", 1453, 437},
                                         Table{"swinL_lvis", "keys_swinL_lvis.tsv", "param_order_swinL_lvis.txt",
                                               "swin", 1203, 437}),
                         [](const auto& table) { return std::string(table.param.name); });

}  // namespace divergen::models
