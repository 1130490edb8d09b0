// Cut-outs equal to DiverGen's clean_pool_if.py, byte for byte (fixtures: augment/cutout).

#include "stages/pool/cut_out.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "image/geometry.hpp"
#include "support/fixtures.hpp"
#include "weights/safetensors.hpp"

namespace divergen::stages {
namespace {

image::Image image_of(const weights::SafetensorsFile& file, const std::string& name) {
  const auto* info = file.find(name);
  if (info == nullptr) throw std::runtime_error("no tensor " + name);
  const auto channels = info->shape.size() == 3 ? info->shape[2] : 1;
  image::Image out(static_cast<int>(info->shape[0]), static_cast<int>(info->shape[1]), static_cast<int>(channels));
  const auto bytes = file.bytes(*info);
  EXPECT_EQ(bytes.size(), out.pixels.size());
  std::memcpy(out.pixels.data(), bytes.data(), bytes.size());
  return out;
}

constexpr int kThreshold = 128;  // reference/semantics.md §6

}  // namespace

TEST(Cutout, EqualsTheReferenceInEveryCase) {
  const Path folder = test::fixtures("augment");
  const weights::SafetensorsFile tensors(folder / "cutout.safetensors");
  const auto cases = test::fixture_json(folder / "cutout.json").at("cases");
  ASSERT_GE(cases.size(), 16u);

  for (const auto& one : cases) {
    const std::string name = one.at("name");
    SCOPED_TRACE(name);
    const image::Image rgb = image_of(tensors, name + ".image"), mask = image_of(tensors, name + ".mask");

    const CutOut cut = cut_out(rgb, mask, kThreshold);

    ASSERT_EQ(cut.problem == CutProblem::None, one.at("accepted").get<bool>());
    const bool has_contour = !one.at("contour_areas_in_cv2_order").empty();
    if (!one.at("accepted").get<bool>()) {
      EXPECT_EQ(cut.problem, has_contour ? CutProblem::Thin : CutProblem::Empty);
      continue;
    }
    const image::Image expected = image_of(tensors, name + ".rgba");
    EXPECT_EQ(cut.rgba.height, expected.height);
    EXPECT_EQ(cut.rgba.width, expected.width);
    EXPECT_TRUE(cut.rgba == expected);
  }
}

TEST(Cutout, KeepsTheComponentThatTheReferenceKeeps) {
  const Path folder = test::fixtures("augment");
  const weights::SafetensorsFile tensors(folder / "cutout.safetensors");
  for (const auto& one : test::fixture_json(folder / "cutout.json").at("cases")) {
    const std::string name = one.at("name");
    if (one.at("contour_areas_in_cv2_order").empty()) continue;
    SCOPED_TRACE(name);
    const image::Image expected = image_of(tensors, name + ".largest");
    const auto part = image::largest_component(image_of(tensors, name + ".mask"), kThreshold);
    ASSERT_TRUE(part.has_value());

    image::Image binary = part->mask;
    for (auto& value : binary.pixels) value = value != 0;
    EXPECT_TRUE(binary == expected);
  }
}

}  // namespace divergen::stages
