#include "stages/generate/generate.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"

namespace divergen::stages {
namespace {

/// Paints the seed's low bytes, and remembers how it was called.
class SeedPainter : public models::TextToImage {
 public:
  std::vector<image::Image> generate(std::span<const models::GenerationItem> items) override {
    calls.push_back({items.begin(), items.end()});
    std::vector<image::Image> out;
    for (const auto& item : items) {
      image::Image picture(2, 3, 3);
      for (std::size_t i = 0; i < 3; ++i) picture.pixels[i] = static_cast<std::uint8_t>(item.seed >> (8 * i));
      out.push_back(std::move(picture));
    }
    return out;
  }
  const std::string& weights_hash() const override { return hash_; }
  std::vector<std::vector<models::GenerationItem>> calls;

 private:
  std::string hash_ = "none";
};

Plan five_items() {
  PlanInput input;
  input.seed = 3;
  input.categories = {{12, "cat", "f", false, {{"manual", {"a cat"}}}}};
  input.generators = {{"sd", 5, {"manual"}}};
  return make_plan(input);
}

}  // namespace

TEST(Generate, PadsTheLastBatchAndKeepsTheOrder) {
  const Plan plan = five_items();
  SeedPainter painter;

  const store::Table table = make_pictures(plan, {0, 5}, painter, 3);

  ASSERT_EQ(painter.calls.size(), 2u);
  ASSERT_EQ(painter.calls[1].size(), 3u);
  EXPECT_EQ(painter.calls[1][2].seed, plan.seed[4]);
  ASSERT_EQ(table.rows(), 5u);
  EXPECT_EQ(table.get<std::uint64_t>("item_id"), plan.item_id);
  EXPECT_EQ(table.get<std::int32_t>("category")[0], 12);
  for (std::size_t row = 0; row < 5; ++row) {
    const auto decoded = image::decode(table.heap(row));
    ASSERT_TRUE(decoded.image) << decoded.problem;
    EXPECT_EQ(decoded.image->width, 3);
    EXPECT_EQ(decoded.image->pixels[0], static_cast<std::uint8_t>(plan.seed[row]));
  }
}

TEST(Generate, MakesTheRowsOfItsShardOnly) {
  const Plan plan = five_items();
  SeedPainter painter;

  const store::Table table = make_pictures(plan, {2, 4}, painter, 2);

  EXPECT_EQ(table.get<std::uint64_t>("seed"), (std::vector{plan.seed[2], plan.seed[3]}));
}

TEST(Generate, NamesAGeneratorThatTheConfigurationLost) {
  config::RunConfig config;
  config.generators.resize(1);
  config.generators[0].name = "other";

  try {
    generator_settings(config, five_items(), 0);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.text().object, "sd");
  }
}

}  // namespace divergen::stages
