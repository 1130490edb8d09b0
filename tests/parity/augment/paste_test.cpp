// Copy-paste of pool instances against the reference's InstPool, from its recorded draws.

#include <map>

#include "cases.hpp"
#include "stages/augment/paste.hpp"

namespace divergen::stages::test {
namespace {

/// The instance files of the fixtures, in the order of the pool's JSON.
class Pool : public InstanceSource {
 public:
  explicit Pool(const Part& part) : part_(part) {
    const std::string text = read_file(fixtures("augment") / "paste.json");  // the order of keys counts
    const auto json = nlohmann::ordered_json::parse(text);
    for (const auto& [key, list] : json.at("pool_json").items())
      if (!list.empty()) classes_.emplace_back(std::stoll(key), list.get<std::vector<std::size_t>>());
  }
  std::size_t classes() const override { return classes_.size(); }
  std::int64_t cls(std::size_t index) const override { return classes_[index].first; }
  std::size_t instances(std::size_t index) const override { return classes_[index].second.size(); }
  Instance load(std::size_t index, std::size_t instance) const override {
    const std::size_t png = classes_[index].second.at(instance);
    const bool is_cut_out = part_.json.at("png").at(png).at("form").get<std::string>().starts_with("cleaned");
    auto decoded = image::decode(part_.text(cat("png.", png, ".file")), image::Channels::Rgba);
    if (!decoded.image) return {};
    if (const std::string name = cat("png.", png, ".mask_file"); part_.has(name)) {
      const auto mask = image::decode(part_.text(name), image::Channels::Grey);
      for (std::size_t i = 0; i < mask.image->pixels.size(); ++i)
        decoded.image->pixels[4 * i + 3] = mask.image->pixels[i];
    }
    return {std::make_shared<const image::Image>(std::move(*decoded.image)), is_cut_out};
  }

 private:
  const Part& part_;
  std::vector<std::pair<std::int64_t, std::vector<std::size_t>>> classes_;
};

AreaStatistics statistics_of(const nlohmann::json& json) {
  AreaStatistics out;
  for (const auto& [key, value] : json.items()) out[std::stoll(key) - 1] = value.get<std::array<double, 2>>();
  return out;
}

PasteRules rules_of(const nlohmann::json& one) {
  PasteRules rules;
  rules.blend = one.at("cp_method").get<std::vector<std::string>>();
  rules.use_largest_part = one.at("use_largest_part").get<bool>();
  rules.random_scale = one.at("random_scale").get<bool>();
  rules.random_scale_low = one.at("random_scale_range").at(0).get<double>();
  rules.random_scale_high = one.at("random_scale_range").at(1).get<double>();
  rules.random_scale_min_size = one.at("random_scale_min_size").get<std::int64_t>();
  rules.drop_empty = false;
  return rules;
}

/// The beginning of what the reference prints when it rejects an instance.
std::string printed(Rejection rejection) {
  static const std::map<Rejection, std::string> kTexts{{Rejection::Unreadable, "image is None"},
                                                       {Rejection::AreaShare, "mask area"},
                                                       {Rejection::ThinPart, "mask boundary"},
                                                       {Rejection::SideLimits, "target shape "},
                                                       {Rejection::TooSmall, "target shape is too small"},
                                                       {Rejection::TooLarge, "target shape is too large"}};
  return kTexts.at(rejection);
}

void expect_same_item(const PasteTrace::Item& ours, const nlohmann::json& expected) {
  EXPECT_EQ(ours.cls, expected.at("class").get<std::int64_t>());
  ASSERT_EQ(ours.rejection == Rejection::None, expected.at("accepted").get<bool>());
  if (ours.rejection != Rejection::None) {
    const auto text = expected.at("reject").get<std::string>();
    EXPECT_TRUE(text.starts_with(printed(ours.rejection))) << text;
    EXPECT_EQ(text.starts_with("target shape is"),
              ours.rejection == Rejection::TooSmall || ours.rejection == Rejection::TooLarge);
    return;
  }
  EXPECT_EQ((std::vector{ours.height, ours.width}), expected.at("target_hw").get<std::vector<int>>());
  EXPECT_EQ(ours.x, expected.at("x0").get<int>());
  EXPECT_EQ(ours.y, expected.at("y0").get<int>());
  EXPECT_EQ(ours.mask.box(), (expected.at("box").get<std::array<float, 4>>()));
  EXPECT_EQ(ours.mask.area(), expected.at("mask_area").get<std::int64_t>());
  const auto kept = expected.at("existing_kept").get<std::vector<int>>();
  EXPECT_EQ(std::vector<int>(ours.kept.begin(), ours.kept.end()), kept);
}

}  // namespace

class paste : public testing::TestWithParam<std::string> {};

TEST_P(paste, EqualsInstPool) {
  const Part part("paste");
  const auto& one = case_of(part, GetParam());
  const Pool pool(part);
  Sample ours = part.sample(GetParam() + ".in");
  PasteTrace trace;
  {
    Replay draws(one.at("draws"));
    StageClock clock;
    paste_instances(ours, pool, statistics_of(part.json.at("area_mean_std2")), rules_of(one), draws, clock, &trace);
  }
  ASSERT_EQ(trace.items.size(), one.at("instances").size());
  std::size_t accepted = 0;
  for (std::size_t i = 0; i < trace.items.size(); ++i) {
    SCOPED_TRACE(cat("instance ", i));
    expect_same_item(trace.items[i], one.at("instances").at(i));
    if (trace.items[i].rejection == Rejection::None) {
      EXPECT_EQ(difference(trace.items[i].rgba, part.picture(cat(GetParam(), ".inst", accepted++, ".rgba"))).count, 0U);
    }
  }
  const Sample expected = part.sample(GetParam() + ".out");
  const Difference pixels = difference(ours.rgb, expected.rgb);
  // Poisson pastes truncate values that are whole but for the solver's last bits: each may take one from a few pixels.
  const bool is_solved = one.at("cp_method").dump().find("possion") != std::string::npos;
  EXPECT_LE(pixels.largest, is_solved ? static_cast<int>(accepted) : 0);
  EXPECT_LE(pixels.count * 100, is_solved ? expected.rgb.pixels.size() : 0) << "more than 1 % of the bytes differ";
  expect_same_objects(ours, expected);
}

TEST_P(paste, DropsOnlyTheEmptyWhenAsked) {
  const Part part("paste");
  const auto& one = case_of(part, GetParam());
  const Pool pool(part);
  PasteRules rules = rules_of(one);
  rules.drop_empty = true;
  Sample ours = part.sample(GetParam() + ".in");
  Replay draws(one.at("draws"));
  StageClock clock;
  paste_instances(ours, pool, statistics_of(part.json.at("area_mean_std2")), rules, draws, clock);
  Sample expected = part.sample(GetParam() + ".out");
  for (const auto& i : one.at("empty_output_masks"))
    EXPECT_TRUE(expected.objects.at(i.get<std::size_t>()).mask.empty());
  std::erase_if(expected.objects, [](const SampleObject& object) { return object.mask.empty(); });
  EXPECT_EQ(part.values<std::int64_t>(GetParam() + ".out.labels").size() - one.at("empty_output_masks").size(),
            expected.objects.size());
  expect_same_objects(ours, expected);
}

INSTANTIATE_TEST_SUITE_P(paste, paste, testing::ValuesIn(case_names("paste")), [](const auto& i) { return i.param; });

}  // namespace divergen::stages::test
