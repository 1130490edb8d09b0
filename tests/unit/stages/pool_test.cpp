#include "stages/pool/pool.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "stages/pool/cut_out.hpp"
#include "stages/pool/cutouts.hpp"
#include "support/pool_world.hpp"

namespace divergen::stages {
namespace {

using test::PoolWorld;

TEST(Pool, CutsOutWhatIsKeptAndCountsTheRest) {
  const PoolWorld made;
  std::vector<store::Instance> instances;
  std::map<std::string, std::int64_t> rejected;
  std::int64_t items = 0;

  for (std::size_t s = 0; s < made.plan.shards(); ++s) {
    const auto range = made.plan.shard(s);
    items += static_cast<std::int64_t>(range.last - range.first);
    pool_rows(made.plan, range, made.shard(s), 128, instances, rejected);
  }

  std::int64_t all = static_cast<std::int64_t>(instances.size());
  for (const auto& [reason, count] : rejected) all += count;
  EXPECT_EQ(all, items);
  EXPECT_EQ(rejected, made.expected_rejected());
  for (const store::Instance& one : instances) {
    // The mask of every good item is a rectangle that PoolWorld derives from its row.
    const auto row = made.row_of(one.item_id);
    const auto box = PoolWorld::box_of(row);
    EXPECT_EQ(one.box_x, box.x);
    EXPECT_EQ(one.box_y, box.y);
    EXPECT_EQ(one.width, box.width);
    EXPECT_EQ(one.height, box.height);
    EXPECT_EQ(one.area, box.width * box.height);
    EXPECT_EQ(one.seed, made.plan.seed[row]);
    EXPECT_EQ(one.category_id, made.plan.categories[static_cast<std::size_t>(made.plan.category[row])].id);
    EXPECT_EQ(one.prompt, made.plan.prompt[row]);
    EXPECT_EQ(one.source_width, PoolWorld::kSize);
    const auto rgba = image::decode(one.png, image::Channels::AsStored);
    ASSERT_TRUE(rgba.image.has_value());
    EXPECT_EQ(rgba.image->channels, 4);
    EXPECT_EQ(rgba.image->at(0, 0)[0], PoolWorld::picture_of(row).at(box.y, box.x)[0]);
    EXPECT_EQ(rgba.image->at(0, 0)[3], 200);
  }
}

TEST(Pool, TakesOverWhichAnnotatorWasChosen) {
  const PoolWorld made;
  std::vector<store::Instance> instances;
  std::map<std::string, std::int64_t> rejected;
  FilteredShard shard = made.shard(0);
  shard.masks.add("annotator", std::vector<std::int32_t>(shard.masks.rows(), 1));
  shard.masks.add("annotator_score.ufo", std::vector<float>(shard.masks.rows(), 20.5F));
  shard.masks.add("annotator_score.u2net", std::vector<float>(shard.masks.rows(), 24.0F));
  shard.masks.documents["annotators"] = R"(["ufo", "u2net"])";

  pool_rows(made.plan, made.plan.shard(0), shard, 128, instances, rejected);
  const std::size_t staged = instances.size();
  ASSERT_GT(staged, 0u);
  // As a fused run has them.
  store::Table scores("divergen-scores", 1);
  scores.add("item_id", shard.pictures.get<std::uint64_t>("item_id"));
  scores.add("readable", std::vector<std::uint8_t>(shard.pictures.rows(), 1));
  const store::Table cutouts = make_cutouts(shard.pictures, shard.masks, scores, 128);
  pool_cutouts(made.plan, made.plan.shard(0), cutouts, shard.verdicts, instances, rejected);

  ASSERT_EQ(instances.size(), 2 * staged);
  for (std::size_t i = 0; i < staged; ++i) EXPECT_EQ(instances[i].png, instances[staged + i].png);
  for (const store::Instance& one : instances) {
    EXPECT_EQ(one.annotator, "u2net");
    EXPECT_EQ(one.annotator_scores, (std::vector<std::pair<std::string, float>>{{"ufo", 20.5F}, {"u2net", 24.0F}}));
  }
}

TEST(Pool, RefusesTablesOfOtherItems) {
  const PoolWorld made;
  std::vector<store::Instance> instances;
  std::map<std::string, std::int64_t> rejected;

  FilteredShard mixed = made.shard(0);
  mixed.masks = made.shard(1).masks;

  EXPECT_THROW(pool_rows(made.plan, made.plan.shard(0), mixed, 128, instances, rejected), Error);
}

TEST(Pool, GroupsShardsOfThePlanWithinTheBound) {
  const PoolWorld made;
  for (const std::int64_t bound : {1, 4, 7, 9, 4096}) {
    const auto groups = group_shards(made.plan, bound);
    std::size_t next = 0;
    for (const ShardGroup& group : groups) {
      EXPECT_EQ(group.first, next);
      EXPECT_TRUE(group.items <= bound || group.last == group.first + 1);
      next = group.last;
    }
    EXPECT_EQ(next, made.plan.shards());
  }
  EXPECT_EQ(group_shards(made.plan, 4096).size(), 1u);
}

TEST(CutOutFlags, TellBorderAndDroppedParts) {
  image::Image rgb(20, 20, 3, 90), mask(20, 20, 1);
  const auto fill = [&](int y0, int x0, int y1, int x1) {
    for (int y = y0; y < y1; ++y)
      for (int x = x0; x < x1; ++x) *mask.at(y, x) = 255;
  };
  fill(5, 5, 12, 12);
  EXPECT_FALSE(cut_out(rgb, mask, 128).touches_border);
  EXPECT_FALSE(cut_out(rgb, mask, 128).parts_dropped);
  fill(15, 15, 17, 17);
  EXPECT_TRUE(cut_out(rgb, mask, 128).parts_dropped);
  fill(0, 5, 12, 12);
  EXPECT_TRUE(cut_out(rgb, mask, 128).touches_border);
}

}  // namespace
}  // namespace divergen::stages
