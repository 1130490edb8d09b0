// Names, order, shapes and types of the full-size detector against the key tables of the reference.

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "models/detector/centernet2.hpp"
#include "support/fixtures_torch.hpp"
#include "weights/safetensors.hpp"

namespace divergen::models {
namespace {

/// One line as the tables have it: kind, name, type, shape.
std::string line_of(const nn::NamedTensor& t) {
  std::string shape;
  for (const std::int64_t n : t.tensor.sizes()) shape += (shape.empty() ? "" : "x") + std::to_string(n);
  const char* kind = t.is_parameter ? "param" : t.is_persistent ? "buffer" : "nonpersistent_buffer";
  return std::string(kind) + "\t" + t.name + "\t" + (t.tensor.scalar_type() == at::kLong ? "int64" : "float32") + "\t" +
         (shape.empty() ? "scalar" : shape);
}

std::vector<std::string> table(const std::string& name) {
  std::ifstream in(Path(DIVERGEN_SOURCE_DIR) / "tests" / "fixtures" / "detector" / name);
  std::vector<std::string> lines;
  std::string line;
  std::getline(in, line);  // the head
  while (std::getline(in, line)) lines.push_back(line.substr(0, line.rfind('\t')));
  return lines;
}

}  // namespace

TEST(keys, EqualTheResNetTable) {
  const nn::NewTensors meta(at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
  const CenterNet2 detector(config::DetectorSettings(), std::vector<double>(1203, 1.0));
  std::vector<std::string> ours, not_saved;
  for (const nn::NamedTensor& t : detector.named_tensors()) (t.is_persistent ? ours : not_saved).push_back(line_of(t));
  ours.insert(ours.end(), not_saved.begin(), not_saved.end());  // the tables have them last
  const std::vector<std::string> expected = table("keys_r50.tsv");
  ASSERT_EQ(expected.size(), 402U);
  ASSERT_EQ(ours.size(), expected.size());
  for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_EQ(ours[i], expected[i]) << "line " << i;
}

}  // namespace divergen::models
