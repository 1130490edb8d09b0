// X-Paste's choice among annotators: CLIP's logit of cut-outs on white against its own code, and the choice itself.

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.hpp"
#include "formula.hpp"
#include "models/annotators/best_cut_out.hpp"
#include "models/annotators/saliency.hpp"

namespace divergen::models {
namespace {

const Path kClip = Path(DIVERGEN_SOURCE_DIR) / "data/mini/models/clip";
const std::vector<std::string> kNames{"teddy_bear", "traffic_light", "apple"};

/// Gives the masks that it was made with.
class GivenMasks : public Annotator {
 public:
  explicit GivenMasks(std::vector<image::Image> masks, std::int64_t group = 0)
      : masks_(std::move(masks)), group_(group) {}
  std::vector<Annotation> annotate(std::span<const image::Image>, std::span<const std::string>) override {
    std::vector<Annotation> out;
    for (const image::Image& mask : masks_) out.push_back({mask, 0, {}});
    return out;
  }
  const std::string& weights_hash() const override { return hash_; }
  std::int64_t group() const override { return group_; }

 private:
  std::vector<image::Image> masks_;
  std::int64_t group_;
  std::string hash_ = "none";
};

std::vector<image::Image> grey(const at::Tensor& bytes) { return test::to_images(bytes.unsqueeze(-1)); }

}  // namespace

TEST(choice, ScoresCutOutsAsXPasteDoes) {
  at::NoGradGuard no_grad;
  const auto expected = test::annotator_fixture("choice");
  const auto pictures = test::to_images(expected.at("pictures"));
  std::vector<Annotation> annotations;
  for (image::Image& mask : grey(expected.at("masks"))) annotations.push_back({std::move(mask), 0, {}});

  const at::Tensor pixels = normalised(pictures, {{0, 0, 0}, {1, 1, 1}}, at::kCPU);
  const at::Tensor object = expected.at("masks").gt(128).unsqueeze(1).to(at::kFloat);
  const at::Tensor input = prepare_tensor_for_clip(pixels * object + (1 - object), 64);
  EXPECT_TENSOR_NEAR(input.slice(2, 0, std::nullopt, 3).slice(3, 0, std::nullopt, 3), expected.at("inputs"), 1e-5);

  CutOutScorer scorer(kClip, at::kCPU);
  const std::vector<float> logits = scorer.logits(pictures, annotations, kNames);
  const at::Tensor reference = expected.at("logits").contiguous();
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(logits[i], reference.const_data_ptr<float>()[i], 1e-3) << kNames[i];
}

TEST(choice, KeepsTheMaskOfTheBestCutOut) {
  const auto fixture = test::annotator_fixture("choice");
  const auto pictures = test::to_images(fixture.at("pictures"));
  std::vector<image::Image> one = grey(fixture.at("masks")), other = grey(fixture.at("masks").bitwise_not());
  CutOutScorer scorer(kClip, at::kCPU);
  const auto logits_of = [&](const std::vector<image::Image>& masks) {
    std::vector<Annotation> annotations;
    for (const image::Image& mask : masks) annotations.push_back({mask, 0, {}});
    return scorer.logits(pictures, annotations, kNames);
  };
  const auto of_one = logits_of(one), of_other = logits_of(other);
  // So that the first annotator is better at the first and the last picture, and the second at the one between.
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_NE(of_one[i], of_other[i]);
    if ((of_one[i] > of_other[i]) != (i != 1)) std::swap(one[i], other[i]);
  }
  const auto first = logits_of(one), second = logits_of(other);

  std::vector<BestCutOut::Candidate> candidates;
  candidates.push_back({"first", std::make_unique<GivenMasks>(one)});
  candidates.push_back({"second", std::make_unique<GivenMasks>(other, 5)});
  candidates.push_back({"like the first", std::make_unique<GivenMasks>(one)});
  BestCutOut best(std::move(candidates), kClip, at::kCPU, "hash");
  EXPECT_EQ(best.names(), (std::vector<std::string>{"first", "second", "like the first"}));
  EXPECT_EQ(best.group(), 5);
  const auto chosen = best.annotate(pictures, kNames);

  ASSERT_EQ(chosen.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(chosen[i].annotator, i == 1 ? 1 : 0);  // of equals the first
    EXPECT_EQ(chosen[i].mask.pixels, (i == 1 ? other : one)[i].pixels);
    EXPECT_EQ(chosen[i].scores, (std::vector<float>{first[i], second[i], first[i]}));
  }
}

/// From a configuration to masks: two real annotators with miniature weights.
TEST(choice, IsMadeFromAConfiguration) {
  const auto pictures = test::to_images(test::annotator_fixture("choice").at("pictures"));
  config::RunConfig config;
  config.filter.clip = kClip;
  config.annotators.resize(2);
  config.annotators[0].name = "everything";
  config.annotators[0].kind = "full";
  config.annotators[1].name = "sam";
  config.annotators[1].weights = Path(DIVERGEN_SOURCE_DIR) / "data/mini/models/sam/model.safetensors";
  config.annotator.choose_from = {"sam", "everything"};
  const auto annotator = make_annotator(config);
  EXPECT_EQ(annotator->names(), config.annotator.choose_from);
  EXPECT_EQ(annotator->weights_hash(), annotators_hash(config));
  const auto chosen = annotator->annotate(pictures, kNames);
  const auto sam = make_annotator(config.annotators[1])->annotate(pictures, {});
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    ASSERT_EQ(chosen[i].scores.size(), 2u);
    const bool is_sam = chosen[i].scores[0] >= chosen[i].scores[1];
    EXPECT_EQ(chosen[i].annotator, is_sam ? 0 : 1);
    EXPECT_EQ(chosen[i].mask.pixels,
              is_sam ? sam[i].mask.pixels : std::vector<std::uint8_t>(chosen[i].mask.pixels.size(), 255));
  }
  // Another order, another CLIP or other candidates make other masks.
  const std::string before = annotators_hash(config);
  config.annotator.choose_from = {"everything", "sam"};
  EXPECT_NE(annotators_hash(config), before);
}

TEST(choice, WantsAClip) {
  EXPECT_THROW(CutOutScorer("", at::kCPU), Error);
  EXPECT_THROW(CutOutScorer("/nowhere", at::kCPU), Error);
}

}  // namespace divergen::models
