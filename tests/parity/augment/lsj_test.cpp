// Resize-crop and flip of images and annotations against detectron2's mapper.

#include "cases.hpp"
#include "stages/augment/resize_crop.hpp"

namespace divergen::stages::test {
namespace {

std::vector<lvis::Annotation> annotations_of(const nlohmann::json& source) {
  std::vector<lvis::Annotation> out;
  for (const auto& from : source.at("annotations")) {
    if (from.value("iscrowd", 0) != 0) continue;
    lvis::Annotation annotation;
    annotation.category_id = from.at("category_id").get<std::int64_t>();
    annotation.box = from.at("bbox").get<std::array<double, 4>>();
    annotation.polygons = from.at("segmentation").get<std::vector<std::vector<double>>>();
    out.push_back(std::move(annotation));
  }
  return out;
}

}  // namespace

class lsj : public testing::TestWithParam<std::string> {};

TEST_P(lsj, EqualsDetectron2) {
  const Part part("lsj");
  const auto& one = case_of(part, GetParam());
  const auto source = one.at("source").get<std::size_t>();
  const image::Image image = part.picture(cat("src", source, ".image"));
  ResizeCropRules rules;
  rules.size = one.at("train_size").get<int>();
  Replay draws(one.at("draws"));
  const ResizeCrop transform = draw_resize_crop(image.height, image.width, rules, draws);
  EXPECT_EQ(transform.scale, one.at("img_scale").get<double>());
  EXPECT_EQ((std::vector{transform.scaled_height, transform.scaled_width}),
            one.at("scaled_hw").get<std::vector<int>>());
  EXPECT_EQ((std::vector{transform.offset_y, transform.offset_x}), one.at("offset_yx").get<std::vector<int>>());
  EXPECT_EQ((std::vector{transform.height, transform.width}), one.at("out_hw").get<std::vector<int>>());
  EXPECT_EQ(transform.flip, one.at("flip").get<bool>());

  Sample ours;
  ours.rgb = apply(transform, image);
  const auto boxes = part.values<double>(GetParam() + ".boxes_before_filter_f64");
  const auto annotations = annotations_of(part.json.at("sources").at(source));
  ASSERT_EQ(annotations.size(), one.at("n_annotations_no_crowd").get<std::size_t>());
  for (std::size_t i = 0; i < annotations.size(); ++i) {
    const auto box = apply_to_box(transform, annotations[i].box);
    EXPECT_TRUE(std::equal(box.begin(), box.end(), boxes.begin() + static_cast<std::ptrdiff_t>(4 * i))) << i;
    for (std::size_t p = 0; p < annotations[i].polygons.size(); ++p)
      EXPECT_EQ(apply_to_polygon(transform, annotations[i].polygons[p]),
                one.at("polygons_transformed").at(i).at(p).get<std::vector<double>>());
    if (auto object = apply_to_annotation(transform, annotations[i], annotations[i].category_id))
      ours.objects.push_back(std::move(*object));
  }
  const Sample expected = part.sample(GetParam());
  EXPECT_EQ(difference(ours.rgb, expected.rgb).count, 0U);
  expect_same_objects(ours, expected);
}

INSTANTIATE_TEST_SUITE_P(lsj, lsj, testing::ValuesIn(case_names("lsj")), [](const auto& i) { return i.param; });

}  // namespace divergen::stages::test
