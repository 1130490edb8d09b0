// Similarity to real crops and the kept lists against DiverGen's get_image_similarity_from_feature.py and
// filter_image_by_similarity.py.

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.hpp"
#include "stages/filter/similarity.hpp"
#include "stages/filter/verdict.hpp"
#include "support/fixtures.hpp"
#include "weights/safetensors.hpp"

namespace divergen::stages {
namespace {

constexpr double kCosine = 1e-6;      // the reference's are float32 of 768 terms
constexpr double kMeanCosine = 3e-7;  // README-augment.md §5: the closed form is off by at most 1.1e-7

class filter : public testing::Test {
 protected:
  filter()
      : cases(test::fixture_json(test::fixtures("augment") / "filter.json")),
        tensors(test::fixtures("augment") / "filter.safetensors") {}

  template <class T>
  std::vector<T> values(const std::string& name) const {
    const weights::TensorInfo* info = tensors.find(name);
    std::vector<T> out;
    if (info == nullptr) return out;
    const auto bytes = tensors.bytes(*info);
    out.resize(bytes.size() / sizeof(T));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
  std::vector<std::vector<float>> unit_rows(const std::string& name) const {
    const auto all = values<float>(name);
    const auto width = cases.at("feature_dim").get<std::ptrdiff_t>();
    std::vector<std::vector<float>> rows;
    for (auto at = all.begin(); at != all.end(); at += width) {
      rows.emplace_back(at, at + width);
      make_unit(rows.back());
    }
    return rows;
  }

  nlohmann::json cases;
  weights::SafetensorsFile tensors;
};

}  // namespace

TEST_F(filter, CosinesOfAllPairsAgree) {
  for (const auto& category : cases.at("categories")) {
    const std::string name = cat("cat", category.at("class0").get<int>(), ".");
    const auto crops = unit_rows(name + "lvis"), generated = unit_rows(name + "gen");
    const auto expected = values<double>(name + "cosine_f64");
    ASSERT_EQ(expected.size(), crops.size() * generated.size());
    for (std::size_t l = 0; l < crops.size(); ++l)
      for (std::size_t g = 0; g < generated.size(); ++g)
        EXPECT_NEAR(dot(crops[l], generated[g]), expected[l * generated.size() + g], kCosine) << name << l << "," << g;
  }
}

TEST_F(filter, KeepsTheSamePictures) {
  std::size_t lists = 0;
  for (const auto& category : cases.at("categories")) {
    const std::string name = cat("cat", category.at("class0").get<int>(), ".");
    FeatureSum sum;
    for (const auto& crop : unit_rows(name + "lvis")) sum.add(crop);
    const std::vector<float> mean = sum.mean();
    const auto expected = values<double>(name + "mean_f64");
    const auto generated = unit_rows(name + "gen");
    ASSERT_EQ(generated.size(), expected.size());
    std::vector<float> similarity;
    for (std::size_t g = 0; g < generated.size(); ++g) {
      similarity.push_back(static_cast<float>(dot(generated[g], mean)));
      EXPECT_NEAR(similarity[g], expected[g], kMeanCosine) << name << g;
    }
    for (const auto& [key, kept] : category.items()) {
      if (!key.starts_with("kept_")) continue;
      config::FilterSettings settings;
      settings.similarity = std::stod(key.substr(5));
      std::vector<std::size_t> ours;
      for (std::size_t g = 0; g < generated.size(); ++g)
        if (judge({true, static_cast<std::int32_t>(sum.count()), similarity[g], 0, 0.5F}, -1, settings) == Reason::Kept)
          ours.push_back(g);
      EXPECT_EQ(ours, kept.get<std::vector<std::size_t>>()) << name << key;
      ++lists;
    }
  }
  EXPECT_GT(lists, 0u);
}

}  // namespace divergen::stages
