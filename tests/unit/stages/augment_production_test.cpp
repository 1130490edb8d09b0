// Training samples as a training gets them: self-copy, ways of drawing instances, batches of one shape, the sampler at
// LVIS's scale, memory.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

#include "mask/rle.hpp"
#include "stages/augment/aspect_groups.hpp"
#include "stages/augment/paste.hpp"
#include "stages/augment/repeat_factor.hpp"
#include "unit/stages/augment_world.hpp"

namespace divergen::stages {

using namespace augment_world;

namespace {

SampleMaker copying(World& world, std::shared_ptr<const InstancePool> pool, SelfCopyUse use) {
  return {world.dataset,
          world.folder.path(),
          world.classes,
          {{3, {0.4, 0.1}}, {7, {0.2, 0.2}}},
          world.settings,
          std::move(pool),
          42,
          use};
}

std::size_t pasted_of(const Sample& sample) {
  return static_cast<std::size_t>(
      std::count_if(sample.objects.begin(), sample.objects.end(), [](const auto& o) { return o.source == 1; }));
}

/// Instances without pictures: classes 5, 6, 9 with 1, 2 and 7 of them.
class Counting : public InstanceSource {
 public:
  std::size_t classes() const override { return 3; }
  std::int64_t cls(std::size_t index) const override { return std::array{5, 6, 9}[index]; }
  std::size_t instances(std::size_t index) const override { return std::array<std::size_t, 3>{1, 2, 7}[index]; }
  Instance load(std::size_t index, std::size_t instance) const override {
    EXPECT_LT(instance, instances(index));
    ++drawn[{index, instance}];
    return {};
  }
  mutable std::map<std::pair<std::size_t, std::size_t>, int> drawn;
};

std::map<std::pair<std::size_t, std::size_t>, int> drawn_by(InstanceDraw way, std::vector<std::int64_t> classes) {
  const Counting source;
  PasteRules rules;
  rules.draw = way;
  StageClock clock;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Sample sample;
    sample.rgb = image::Image(50, 50, 3);
    for (const std::int64_t cls : classes) {
      SampleObject object;
      object.cls = cls;
      object.mask = box_mask(image::Image(2, 2, 1, 1));
      object.box = object.mask.box();
      sample.objects.push_back(object);
    }
    RandomDraws draws(seed);
    paste_instances(sample, source, {}, rules, draws, clock);
  }
  return source.drawn;
}

/// As a long-tailed pool: a class with a million instances, all others with one; a class with none has no place in it.
class Uneven : public InstanceSource {
 public:
  static constexpr std::size_t kClasses = 50, kLarge = 7;
  std::size_t classes() const override { return kClasses; }
  std::int64_t cls(std::size_t index) const override { return static_cast<std::int64_t>(index); }
  std::size_t instances(std::size_t index) const override { return index == kLarge ? 1'000'000 : 1; }
  Instance load(std::size_t index, std::size_t instance) const override {
    ++drawn[index];
    if (index == kLarge) which.insert(instance);
    return {};
  }
  mutable std::vector<int> drawn = std::vector<int>(kClasses, 0);
  mutable std::set<std::size_t> which;
};

double resident_mib() {
  std::ifstream file("/proc/self/statm");
  double pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * 4096 / (1 << 20);
}

}  // namespace

TEST(self_copy_use, FollowsTheTraining) {
  config::TrainSettings training;
  EXPECT_EQ(self_copy_of(training).mode, SelfCopyUse::Mode::Off);
  training.self_copy = "also";
  training.self_copy_chance = 0.25;
  EXPECT_EQ(self_copy_of(training).mode, SelfCopyUse::Mode::Also);
  EXPECT_EQ(self_copy_of(training).chance, 0.25);
  training.self_copy = "instead";
  EXPECT_EQ(self_copy_of(training).mode, SelfCopyUse::Mode::Instead);
}

TEST(self_copy_use, OnTopOfThePoolWithoutChangingIt) {
  World world;
  const auto pool = pool_of(world);
  const SampleMaker plain = world.maker(pool), both = copying(world, pool, {SelfCopyUse::Mode::Also, 1});
  std::size_t grown = 0, marked = 0;
  for (std::uint64_t position = 0; position < 100; ++position) {
    const Sample a = plain.make(position), b = both.make(position);
    expect_equal(b, both.make(position));  // a function of the position alone
    EXPECT_EQ(a.image_id, b.image_id);
    EXPECT_GE(b.rgb.height, a.rgb.height);
    EXPECT_GE(b.rgb.width, a.rgb.width);
    EXPECT_LE(pasted_of(b), pasted_of(a));  // some may be hidden
    marked += pasted_of(b);
    std::size_t real_a = a.objects.size() - pasted_of(a), real_b = b.objects.size() - pasted_of(b);
    grown += real_b > real_a;
    for (const SampleObject& object : b.objects) {
      ASSERT_FALSE(object.mask.empty());
      EXPECT_LE(object.mask.x + object.mask.bits.width, b.rgb.width);
      EXPECT_LE(object.mask.y + object.mask.bits.height, b.rgb.height);
    }
    // Where nothing is copied, it is the plain sample.
    if (real_b == real_a && pasted_of(a) == pasted_of(b) && a.rgb == b.rgb) expect_equal(a, b);
  }
  EXPECT_GT(grown, 40U);
  EXPECT_GT(marked, 40U);
}

TEST(self_copy_use, InPlaceOfThePoolByChance) {
  World world;
  const auto pool = pool_of(world);
  const SampleMaker always = copying(world, pool, {SelfCopyUse::Mode::Instead, 1}),
                    alone = copying(world, nullptr, {SelfCopyUse::Mode::Also, 1}),
                    never = copying(world, pool, {SelfCopyUse::Mode::Instead, 0}), plain = world.maker(pool),
                    sometimes = copying(world, pool, {SelfCopyUse::Mode::Instead, 0.5});
  std::size_t as_plain = 0;
  for (std::uint64_t position = 0; position < 200; ++position) {
    const Sample copied = always.make(position), kept = plain.make(position);
    EXPECT_EQ(pasted_of(copied), 0U);
    expect_equal(copied, alone.make(position));
    expect_equal(never.make(position), kept);
    const Sample mixed = sometimes.make(position);
    const bool is_plain = mixed.rgb == kept.rgb && mixed.objects.size() == kept.objects.size();
    as_plain += is_plain;
    if (is_plain) expect_equal(mixed, kept);
    else expect_equal(mixed, copied);
  }
  EXPECT_GT(as_plain, 70U);
  EXPECT_LT(as_plain, 150U);
}

TEST(self_copy_use, SourcesByRepeatFactorAndScale) {
  World world;
  world.settings.self_copy_by_repeat_factor = true;
  world.settings.repeat_threshold = 1;
  world.settings.self_copy_sources = 2;
  world.settings.self_copy_select = false;
  world.settings.self_copy_scale_low = 0.05;
  world.settings.self_copy_scale_high = 0.06;  // 5 px of 96: hardly anything is left of an object
  const SampleMaker maker = copying(world, nullptr, {SelfCopyUse::Mode::Also, 1}), plain = world.maker(nullptr);
  for (std::uint64_t position = 0; position < 50; ++position) {
    const Sample sample = maker.make(position);
    const std::size_t before = plain.make(position).objects.size();
    ASSERT_LE(sample.objects.size(), before + 6);  // three objects in each source
    for (const SampleObject& object : sample.objects) {
      const bool is_small = object.mask.bits.width <= 3 && object.mask.bits.height <= 3;
      EXPECT_TRUE(is_small || object.mask.bits.width > 3);
      if (is_small) {
        EXPECT_LE(object.box[2], 6.0F);  // copied to the upper left corner
      }
    }
  }
  const auto unreadable = [&](int i) { write_file_atomic(world.folder / cat(i, ".png"), "no picture"); };
  unreadable(1), unreadable(2);
  const SampleMaker damaged = copying(world, nullptr, {SelfCopyUse::Mode::Also, 1});
  for (std::uint64_t position = 0; position < 20; ++position) damaged.make(position);
  EXPECT_EQ(damaged.unreadable_images().size(), 2U);
}

TEST(instance_draw, CategoriesAlikeOrInstancesAlikeOrTheImages) {
  const auto share = [](const auto& drawn, std::size_t index, std::size_t instance) {
    double all = 0;
    for (const auto& [key, count] : drawn) all += count;
    const auto found = drawn.find({index, instance});
    return found == drawn.end() ? 0.0 : found->second / all;
  };
  const auto category = drawn_by(InstanceDraw::Category, {});
  EXPECT_NEAR(share(category, 0, 0), 1.0 / 3, 0.02);
  EXPECT_NEAR(share(category, 2, 4), 1.0 / 21, 0.01);
  const auto instance = drawn_by(InstanceDraw::Instance, {});
  EXPECT_EQ(instance.size(), 10U);
  for (const auto& [key, count] : instance) EXPECT_NEAR(share(instance, key.first, key.second), 0.1, 0.01);
  const auto image = drawn_by(InstanceDraw::Image, {9, 9, 5, 7});
  EXPECT_EQ(share(image, 1, 0) + share(image, 1, 1), 0);
  EXPECT_NEAR(share(image, 0, 0), 0.5, 0.02);  // of classes 5 and 9, both alike, however often they are in the image
  EXPECT_TRUE(drawn_by(InstanceDraw::Image, {7}).empty());
  EXPECT_EQ(instance_draw_of("image"), InstanceDraw::Image);
  expect_error(ErrorKind::Config, "magic", [] { instance_draw_of("magic"); });
}

TEST(instance_draw, AMillionInstancesWeighNoMoreThanOne) {
  const Uneven source;
  PasteRules rules;
  StageClock clock;
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    Sample sample;
    sample.rgb = image::Image(50, 50, 3);
    RandomDraws draws(seed);
    paste_instances(sample, source, {}, rules, draws, clock);
  }
  double all = 0;
  for (const int count : source.drawn) all += count;
  EXPECT_NEAR(all, 4000 * 9.5, 4000);
  const double wanted = all / Uneven::kClasses, deviation = std::sqrt(wanted);
  for (std::size_t c = 0; c < Uneven::kClasses; ++c)
    EXPECT_NEAR(source.drawn[c], wanted, 5 * deviation) << "class " << c << " of " << source.instances(c);
  EXPECT_GT(source.which.size() + 3, static_cast<std::size_t>(source.drawn[Uneven::kLarge])) << "nearly all different";
}

TEST(instance_pool, KeepsTheFrequenciesThatAreAllowed) {
  World world;
  config::TrainSettings training;
  training.pool_frequencies = {"f", "r"};
  EXPECT_EQ(pool_of(world, training)->classes(), (std::vector<std::int64_t>{0}));
  training.pool_frequencies = {"c"};
  EXPECT_EQ(pool_of(world, training)->classes(), (std::vector<std::int64_t>{1, 2}));
}

TEST(sample_maker, AllBlendsAreDrawnAndSamplesStayWhole) {
  World world;
  world.settings.blend = {"basic", "alpha", "gaussian", "poisson"};
  const auto pool = pool_of(world);
  const SampleMaker mixed = world.maker(pool);
  std::vector<SampleMaker> pure;
  for (const std::string& way : world.settings.blend) {
    World one;
    one.settings.blend = {way};
    world.settings.blend = {way};
    pure.push_back(world.maker(pool));
  }
  std::size_t single = 0, like_basic = 0;
  for (std::uint64_t position = 0; position < 60; ++position) {
    const Sample a = mixed.make(position);
    expect_equal(a, mixed.make(position));
    for (const SampleMaker& maker : pure) {  // what is pasted, and where, does not depend on how
      const Sample b = maker.make(position);
      ASSERT_EQ(a.objects.size(), b.objects.size());
      for (std::size_t i = 0; i < a.objects.size(); ++i) EXPECT_TRUE(a.objects[i].mask == b.objects[i].mask);
    }
    if (pasted_of(a) != 1) continue;
    ++single;
    like_basic += a.rgb == pure[0].make(position).rgb;
  }
  EXPECT_GT(single, 2U);
  EXPECT_LT(like_basic, single);  // others were drawn too
}

TEST(sample_maker, ShapesAreKnownBeforehand) {
  World world;
  const auto pool = pool_of(world);
  const SampleMaker maker = world.maker(pool);
  std::size_t wide = 0;
  for (std::uint64_t position = 0; position < 100; ++position) {
    const Sample sample = maker.make(position);
    EXPECT_EQ(maker.is_wide(position), sample.rgb.width > sample.rgb.height) << position;
    wide += maker.is_wide(position);
  }
  EXPECT_GT(wide, 0U);
  EXPECT_LT(wide, 100U);
}

TEST(sample_maker, TimesItsParts) {
  World world;
  const SampleMaker maker = world.maker(pool_of(world));
  for (const double seconds : maker.lap_seconds()) EXPECT_EQ(seconds, 0);
  for (std::uint64_t position = 0; position < 20; ++position) maker.make(position);
  const auto laps = maker.lap_seconds();
  for (const Lap lap : {Lap::Picture, Lap::Resize, Lap::Annotations, Lap::Instances, Lap::Scale, Lap::Paste})
    EXPECT_GT(laps[static_cast<std::size_t>(lap)], 0) << kLapNames[static_cast<std::size_t>(lap)];
  EXPECT_EQ(laps[static_cast<std::size_t>(Lap::SelfCopy)], 0);
}

class aspect_groups : public testing::TestWithParam<std::pair<std::uint64_t, std::uint64_t>> {
 protected:
  static bool is_wide(std::uint64_t position) { return derive_seed(5, "wide", {position}) % 3 == 0; }
};

TEST_P(aspect_groups, BatchesOfARankHaveOneShapeAndNothingIsLostOrTwice) {
  const auto [group, ranks] = GetParam();
  const std::uint64_t batch = group * ranks;
  const AspectGroups groups(is_wide, group, ranks);
  std::set<std::uint64_t> seen;
  constexpr std::uint64_t kSteps = 300;
  for (std::uint64_t step = 0; step < kSteps; ++step)
    for (std::uint64_t rank = 0; rank < ranks; ++rank) {
      std::set<bool> shapes;
      for (std::uint64_t k = 0; k < group; ++k) {
        const std::uint64_t position = groups.position(step * batch + rank + k * ranks);
        EXPECT_TRUE(seen.insert(position).second) << position;
        shapes.insert(is_wide(position));
      }
      EXPECT_EQ(shapes.size(), 1U) << "step " << step << ", rank " << rank;
    }
  EXPECT_EQ(seen.size(), kSteps * batch);
  EXPECT_LT(*seen.rbegin(), kSteps * batch + 2 * group);  // only what still waits in the two buckets is left out
}

TEST_P(aspect_groups, CanBeTakenUpAnywhere) {
  const auto [group, ranks] = GetParam();
  const AspectGroups forward(is_wide, group, ranks), jumping(is_wide, group, ranks);
  std::vector<std::uint64_t> expected;
  const std::uint64_t count = 40000 / (group * ranks) * group * ranks;
  for (std::uint64_t i = 0; i < count; ++i) expected.push_back(forward.position(i));
  Rng rng(2);
  for (int i = 0; i < 20; ++i) {
    const std::uint64_t at = rng.below(count);
    EXPECT_EQ(jumping.position(at), expected[at]) << at;
  }
}

TEST_P(aspect_groups, OneShapeAloneKeepsTheOrderOfEachRank) {
  const auto [group, ranks] = GetParam();
  const AspectGroups square([](std::uint64_t) { return false; }, group, ranks);
  std::uint64_t next = 0;
  for (std::uint64_t step = 0; step < 20; ++step)
    for (std::uint64_t rank = 0; rank < ranks; ++rank)
      for (std::uint64_t k = 0; k < group; ++k)
        EXPECT_EQ(square.position(step * group * ranks + rank + k * ranks), next++);
}

INSTANTIATE_TEST_SUITE_P(groups, aspect_groups,
                         testing::Values(std::pair{1UL, 1UL}, std::pair{2UL, 8UL}, std::pair{4UL, 2UL},
                                         std::pair{16UL, 1UL}));

/// LVIS train: 99,388 images with annotations, 1203 categories of the published image counts.
TEST(repeat_factors, AtTheScaleOfLvis) {
  constexpr std::size_t kImages = 99388;
  const auto json =
      nlohmann::json::parse(read_file(Path(DIVERGEN_SOURCE_DIR) / "data/lvis/lvis_v1_train_cat_info.json"));
  std::vector<std::vector<std::int64_t>> categories(kImages);
  Rng rng(1);
  std::vector<std::size_t> counts;
  for (const auto& one : json) {
    counts.push_back(one.at("image_count").get<std::size_t>());
    const std::uint64_t first = rng.below(kImages);
    for (std::size_t i = 0; i < counts.back(); ++i)  // spread over the images; now and then two objects in one
      for (std::size_t twice = 0; twice < 1 + i % 2; ++twice)
        categories[(first + i * 7919) % kImages].push_back(static_cast<std::int64_t>(counts.size()));
  }
  const std::vector<float> factors = repeat_factors(categories, 0.001);
  ASSERT_EQ(factors.size(), kImages);
  std::size_t above = 0;
  std::vector<double> of_category;
  for (const std::size_t count : counts) {
    of_category.push_back(std::max(1.0, std::sqrt(0.001 / (static_cast<double>(count) / kImages))));
    above += of_category.back() > 1;
  }
  EXPECT_EQ(above, 796U);  // semantics.md §7.10
  EXPECT_NEAR(*std::max_element(of_category.begin(), of_category.end()), 9.97, 0.005);
  double sum = 0;
  for (std::size_t i = 0; i < kImages; ++i) {
    double expected = 1;
    for (const std::int64_t category : categories[i])
      expected = std::max(expected, of_category[static_cast<std::size_t>(category - 1)]);
    ASSERT_EQ(factors[i], static_cast<float>(expected)) << i;
    sum += expected;
  }
  // Over epochs an image comes as often as its factor says, and an epoch is a shuffle of its multiset.
  const RepeatFactorStream stream(factors, 42);
  std::vector<std::uint32_t> times(kImages);
  std::uint64_t position = 0;
  constexpr int kEpochs = 6;
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const auto one = stream.epoch_of(position);
    EXPECT_NEAR(static_cast<double>(one->order.size()), sum, 0.01 * sum);
    std::vector<std::uint32_t> here(kImages);
    for (const std::uint32_t i : one->order) ++here[i], ++times[i];
    for (std::size_t i = 0; i < kImages; ++i) {
      ASSERT_GE(here[i], static_cast<std::uint32_t>(factors[i]));
      ASSERT_LE(here[i], static_cast<std::uint32_t>(factors[i]) + 1);
    }
    position += one->order.size();
  }
  double rare = 0, rare_expected = 0;
  for (std::size_t i = 0; i < kImages; ++i)
    if (factors[i] > 3) rare += times[i], rare_expected += kEpochs * static_cast<double>(factors[i]);
  EXPECT_NEAR(rare / rare_expected, 1, 0.02);
}

TEST(box_mask, OfRunsThatSpanColumns) {
  for (const int height : {1, 3, 8}) {
    Rng rng(static_cast<std::uint64_t>(height));
    for (int round = 0; round < 40; ++round) {
      std::vector<std::uint32_t> counts;
      std::int64_t left = height * 12;
      while (left > 0) {
        counts.push_back(static_cast<std::uint32_t>(
            rng.below(static_cast<std::uint64_t>(std::min<std::int64_t>(left, 2 * height + 3)) + 1)));
        left -= counts.back();
      }
      const mask::Rle rle = mask::from_counts(counts, height, 12);
      image::Image bitmap(height, 12, 1);
      bitmap.pixels = mask::decode(rle);
      EXPECT_TRUE(box_mask(rle) == box_mask(bitmap));
    }
  }
}

/// Memory does not grow with the number of samples. By default 1,500; DIVERGEN_LOADER_SAMPLES gives another number.
TEST(loader_memory, StaysBounded) {
  World world;
  world.settings.blend = {"basic", "alpha", "gaussian"};
  const SampleMaker maker = copying(world, pool_of(world), {SelfCopyUse::Mode::Also, 0.5});
  SampleLoader loader(maker, 0, 1, 2, 8);
  const char* asked = std::getenv("DIVERGEN_LOADER_SAMPLES");
  const int samples = asked != nullptr ? std::atoi(asked) : 1500;
  double early = 0;
  for (int i = 0; i < samples; ++i) {
    loader.next();
    if (i == samples / 3) early = resident_mib();
  }
  const double late = resident_mib();
  std::printf("%d samples: %.1f MiB after a third, %.1f MiB in the end\n", samples, early, late);
  EXPECT_LT(late - early, 8) << "MiB over " << samples - samples / 3 << " samples";
}

}  // namespace divergen::stages
