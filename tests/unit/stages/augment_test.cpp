// Training samples: readers, boxed masks, the stream, the pool, the maker, the loader.

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.hpp"
#include "stages/augment/paste.hpp"
#include "stages/augment/picture_cache.hpp"
#include "stages/augment/repeat_factor.hpp"
#include "stages/augment/sample_maker.hpp"
#include "unit/stages/augment_world.hpp"

namespace divergen::stages {

using namespace augment_world;

TEST(class_map, EvaluatedFirstThenExtraById) {
  World world;
  EXPECT_EQ(world.classes.category_of, (std::vector<std::int64_t>{3, 7, 900}));
  EXPECT_EQ(world.classes.names, (std::vector<std::string>{"airplane", "apple", "tench"}));
  EXPECT_EQ(world.classes.image_counts, (std::vector<double>{300, 12, 2000}));
  EXPECT_EQ(world.classes.evaluated, 2);
  EXPECT_EQ(world.classes.class_of.at(900), 2);
}

TEST(class_map, RefusesWhatCannotBe) {
  const test::TemporaryFolder folder;
  const auto read = [&](const char* text) {
    write_file_atomic(folder / "c.json", text);
    return read_class_map(folder / "c.json");
  };
  expect_error(ErrorKind::Io, "none.json", [&] { read_class_map(folder / "none.json"); });
  expect_error(ErrorKind::Data, "not JSON", [&] { read("["); });
  expect_error(ErrorKind::Data, "no category", [&] { read("[]"); });
  expect_error(ErrorKind::Data, "not a list", [&] { read("{}"); });
  expect_error(ErrorKind::Data, "no integer 'id'", [&] { read(R"([{"name": "a"}])"); });
  expect_error(ErrorKind::Data, "the id 1", [&] { read(R"([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])"); });
  expect_error(ErrorKind::Data, "the role", [&] { read(R"([{"id": 1, "name": "a", "role": "train"}])"); });
}

TEST(area_statistics, ReadsAndRefuses) {
  const test::TemporaryFolder folder;
  const auto read = [&](const char* text) {
    write_file_atomic(folder / "a.json", text);
    return read_area_statistics(folder / "a.json");
  };
  const AreaStatistics statistics = read(R"({"1202": [0.25, 0.125], "3": [0.5, 0.0]})");
  EXPECT_EQ(statistics.at(1202), (std::array{0.25, 0.125}));
  EXPECT_EQ(statistics.size(), 2U);
  expect_error(ErrorKind::Data, "not a category id", [&] { read(R"({"3a": [1, 1]})"); });
  expect_error(ErrorKind::Data, "no pair", [&] { read(R"({"3": [1]})"); });
  expect_error(ErrorKind::Data, "the mean -1", [&] { read(R"({"3": [-1, 1]})"); });
}

TEST(box_mask, IsTightAndComesBackWhole) {
  image::Image bitmap(30, 20, 1);
  for (int y = 7; y < 12; ++y)
    for (int x = 3; x < 5; ++x) *bitmap.at(y, x) = 200;
  *bitmap.at(29, 10) = 1;
  const BoxMask mask = box_mask(bitmap);
  EXPECT_EQ(mask.box(), (std::array<float, 4>{3, 7, 11, 30}));
  EXPECT_EQ(mask.area(), 11);
  const image::Image whole = mask.on_canvas(30, 20);
  for (std::size_t i = 0; i < whole.pixels.size(); ++i) EXPECT_EQ(whole.pixels[i], bitmap.pixels[i] != 0);
  EXPECT_TRUE(box_mask(image::Image(5, 5, 1)).empty());
  EXPECT_EQ(box_mask(image::Image(5, 5, 1)).box(), (std::array<float, 4>{}));
}

TEST(box_mask, OfRunLengthsEqualsTheDecodedMask) {
  Rng rng(5);
  for (int round = 0; round < 50; ++round) {
    std::vector<double> polygon;
    for (int i = 0; i < 10; ++i) polygon.push_back(rng.uniform(-10, 60));
    const mask::Rle rle = mask::from_polygon(polygon, 37, 45);
    image::Image bitmap(37, 45, 1);
    bitmap.pixels = mask::decode(rle);
    EXPECT_TRUE(box_mask(rle) == box_mask(bitmap));
  }
}

TEST(stream, AnyOrderOfAskingGivesTheSameIndices) {
  const std::vector<float> factors{1, 2.5F, 1.25F, 9.75F, 1};
  const RepeatFactorStream forward(factors, 42), back(factors, 42), other(factors, 43);
  std::vector<std::uint32_t> expected;
  for (std::uint64_t p = 0; p < 300000; ++p) expected.push_back(forward[p]);
  Rng rng(1);
  for (int i = 0; i < 50; ++i) {
    const std::uint64_t p = rng.below(expected.size());
    EXPECT_EQ(back[p], expected[p]) << p;
  }
  std::size_t same = 0;
  for (std::uint64_t p = 0; p < 1000; ++p) same += other[p] == expected[p];
  EXPECT_LT(same, 900U);
  std::vector<std::size_t> counts(factors.size());
  for (const std::uint32_t i : expected) ++counts[i];
  for (std::size_t i = 1; i < factors.size(); ++i)
    EXPECT_NEAR(static_cast<double>(counts[i]) / static_cast<double>(counts[0]), factors[i], 0.05);
}

TEST(picture_cache, KeepsToItsBytes) {
  PictureCache cache(1000);
  int made = 0;
  const auto get = [&](std::size_t key) {
    return cache.get(key, [&] {
      ++made;
      return std::make_shared<const image::Image>(10, 30, 1);
    });
  };
  for (std::size_t key = 0; key < 10; ++key) {
    get(key);
    EXPECT_LE(cache.bytes(), 1000U);
  }
  get(9), get(8), get(7);
  EXPECT_EQ(made, 10);
  get(0);
  EXPECT_EQ(made, 11);
  get(9);  // was the oldest
  EXPECT_EQ(made, 12);
}

TEST(instance_pool, KeepsWhatTheTrainingAllows) {
  World world;
  EXPECT_EQ(pool_of(world)->size(), 12U);
  EXPECT_EQ(pool_of(world)->classes(), (std::vector<std::int64_t>{0, 1, 2}));
  config::TrainSettings training;
  training.pool_extra = false;
  training.pool_per_category = 3;
  const auto few = pool_of(world, training);
  EXPECT_EQ(few->classes(), (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(few->size(), 6U);
  training.pool_generators = {"if"};
  const auto one = pool_of(world, training);
  EXPECT_EQ(one->size(), 4U);
  for (const auto& list : one->by_class())
    for (const std::size_t entry : list) EXPECT_EQ(one->library().entries()[entry].generator, 1);
  training.pool_generators = {"sdxl"};
  expect_error(ErrorKind::Config, "sdxl", [&] { pool_of(world, training); });
  world.classes.class_of.erase(900);
  expect_error(ErrorKind::Data, "900", [&] { pool_of(world); });
}

TEST(instance_pool, FewOfACategoryAreSpreadOverAllGenerators) {
  World world;
  config::TrainSettings training;
  training.pool_per_category = 2;
  const auto few = pool_of(world, training);
  for (const auto& list : few->by_class()) {
    std::set<std::int32_t> generators;
    for (const std::size_t entry : list) generators.insert(few->library().entries()[entry].generator);
    EXPECT_EQ(generators.size(), 2U);
  }
}

TEST(sample_maker, SamplesKeepWhatTheyPromise) {
  World world;
  const SampleMaker maker = world.maker(pool_of(world));
  std::set<std::int64_t> images, pasted;
  for (std::uint64_t position = 0; position < 200; ++position) {
    const Sample sample = maker.make(position);
    EXPECT_EQ(sample.position, position);
    images.insert(sample.image_id);
    ASSERT_LE(sample.rgb.height, 96);
    ASSERT_LE(sample.rgb.width, 96);
    for (const SampleObject& object : sample.objects) {
      ASSERT_FALSE(object.mask.empty());
      const auto tight = object.mask.box();
      EXPECT_GE(tight[0], 0);
      EXPECT_GE(tight[1], 0);
      EXPECT_LE(tight[2], static_cast<float>(sample.rgb.width));
      EXPECT_LE(tight[3], static_cast<float>(sample.rgb.height));
      if (object.source == 1) {
        EXPECT_EQ(object.box, tight);
        pasted.insert(object.cls);
      } else {
        EXPECT_LT(object.cls, 2);
      }
    }
  }
  EXPECT_EQ(images, (std::set<std::int64_t>{100, 101, 102, 103}));  // not the empty one, not the crowd's
  EXPECT_EQ(pasted, (std::set<std::int64_t>{0, 1, 2}));
  EXPECT_TRUE(maker.unreadable_images().empty());
  EXPECT_TRUE(maker.unreadable_instances().empty());
}

TEST(sample_maker, APoolDoesNotChangeTheCrops) {
  World world;
  const SampleMaker with = world.maker(pool_of(world)), without = world.maker(nullptr);
  std::size_t unpasted = 0;
  for (std::uint64_t position = 0; position < 100; ++position) {
    const Sample a = with.make(position), b = without.make(position);
    EXPECT_EQ(a.image_id, b.image_id);
    EXPECT_EQ(a.rgb.height, b.rgb.height);
    EXPECT_EQ(a.rgb.width, b.rgb.width);
    for (const SampleObject& object : b.objects) EXPECT_EQ(object.source, 0);
    const bool is_pasted =
        std::any_of(a.objects.begin(), a.objects.end(), [](const auto& object) { return object.source == 1; });
    if (is_pasted) continue;
    ++unpasted;
    expect_equal(a, b);
  }
  EXPECT_GT(unpasted, 0U);
  EXPECT_LT(unpasted, 100U);
}

TEST(sample_maker, UnreadablePicturesAreReplacedAndCounted) {
  World world;
  const SampleMaker intact = world.maker(nullptr);
  std::vector<Sample> before;
  for (std::uint64_t position = 0; position < 40; ++position) before.push_back(intact.make(position));
  write_file_atomic(world.folder / "1.png", "no picture");
  write_file_atomic(world.folder / "2.png", image::encode_png(noise(39, 60, 3, 9)));  // not the size of its record
  const SampleMaker maker = world.maker(nullptr);
  for (std::uint64_t position = 0; position < 40; ++position) {
    const Sample sample = maker.make(position);
    EXPECT_EQ(sample.position, position);
    EXPECT_TRUE(sample.image_id == 100 || sample.image_id == 103);
    const std::int64_t was = before[position].image_id;
    if (was == 100 || was == 103) expect_equal(sample, before[position]);
  }
  EXPECT_EQ(maker.unreadable_images().size(), 2U);
  remove_quietly(world.folder / "0.png");
  remove_quietly(world.folder / "3.png");
  const SampleMaker hopeless = world.maker(nullptr);
  expect_error(ErrorKind::Data, "not one image", [&] { hopeless.make(0); });
}

TEST(sample_maker, UnreadableInstancesAreLeftOutAndCounted) {
  World world;
  const auto pool = std::make_shared<const InstancePool>(world.library(true), config::TrainSettings{}, world.classes);
  const SampleMaker maker = world.maker(pool);
  std::size_t pasted = 0;
  for (std::uint64_t position = 0; position < 100; ++position)
    for (const SampleObject& object : maker.make(position).objects) pasted += object.source == 1;
  EXPECT_EQ(maker.unreadable_instances().size(), 9U);
  EXPECT_GT(pasted, 0U);
}

TEST(sample_maker, RefusesWhatCannotBeFollowed) {
  World world;
  world.settings.blend = {"basic", "magic"};
  expect_error(ErrorKind::Config, "magic", [&] { world.maker(nullptr); });
  world.settings.blend = {"basic"};
  world.settings.scale_low = 3;
  expect_error(ErrorKind::Config, "scale_low", [&] { world.maker(nullptr); });
  world.settings.scale_low = 0.5;
  world.classes.class_of.erase(7);
  expect_error(ErrorKind::Data, "category id 7", [&] { world.maker(nullptr); });
  World empty;
  empty.dataset.annotations.clear();
  expect_error(ErrorKind::Data, "no image has an annotation", [&] { empty.maker(nullptr); });
}

TEST(sample_maker, RunLengthMasksFollowTheImage) {
  World world;
  lvis::Annotations masks;
  for (lvis::Annotation annotation : world.dataset.annotations) {
    annotation.rle = world.dataset.mask_of(annotation);
    annotation.polygons.clear();
    masks.push_back(annotation);
  }
  world.dataset.annotations = std::move(masks);
  const SampleMaker maker = world.maker(nullptr);
  World plain;
  const SampleMaker polygons = plain.maker(nullptr);
  for (std::uint64_t position = 0; position < 20; ++position) {
    const Sample a = maker.make(position), b = polygons.make(position);
    EXPECT_TRUE(a.rgb == b.rgb);
    ASSERT_EQ(a.objects.size(), b.objects.size());
    for (std::size_t i = 0; i < a.objects.size(); ++i)  // the two ways of scaling differ at the rim alone
      for (std::size_t k = 0; k < 4; ++k)
        EXPECT_NEAR(a.objects[i].mask.box()[k], b.objects[i].mask.box()[k], 3.0) << position;
  }
}

TEST(sample_maker, PolygonsAreTheMasksBeforeTheRaster) {
  World world;
  const auto with = [&](World& of, bool polygons) {
    return SampleMaker(of.dataset, of.folder.path(), of.classes, {}, of.settings, nullptr, 42, {}, polygons);
  };
  const SampleMaker masks = with(world, false), polygons = with(world, true);
  std::size_t seen = 0;
  for (std::uint64_t position = 0; position < 20; ++position) {
    const Sample a = masks.make(position), b = polygons.make(position);
    EXPECT_TRUE(a.rgb == b.rgb);
    ASSERT_GE(b.objects.size(), a.objects.size());  // those of which no pixel is left stay (detector.md §3)
    std::size_t next = 0;
    for (const SampleObject& object : b.objects) {
      EXPECT_TRUE(object.mask.empty());
      ASSERT_FALSE(object.polygons.empty());
      const BoxMask drawn = box_mask(mask::from_polygons(object.polygons, b.rgb.height, b.rgb.width));
      if (drawn.empty()) continue;
      ASSERT_LT(next, a.objects.size());
      EXPECT_EQ(object.box, a.objects[next].box);
      EXPECT_EQ(object.cls, a.objects[next].cls);
      EXPECT_TRUE(drawn == a.objects[next].mask);
      ++next, ++seen;
    }
    EXPECT_EQ(next, a.objects.size());
  }
  EXPECT_GT(seen, 20u);

  lvis::Annotation run_lengths = world.dataset.annotations[0];
  run_lengths.rle = world.dataset.mask_of(run_lengths);
  run_lengths.polygons.clear();
  world.dataset.annotations.push_back(run_lengths);
  EXPECT_THROW(with(world, true), Error);
}

class loader : public testing::TestWithParam<int> {};

TEST_P(loader, GivesTheMakersSamplesInOrder) {
  World world;
  const SampleMaker maker = world.maker(pool_of(world)), other = world.maker(pool_of(world));
  SampleLoader loader(maker, 5, 3, GetParam(), 4);
  for (std::uint64_t n = 0; n < 60; ++n) expect_equal(loader.next(), other.make(5 + 3 * n));
  EXPECT_GE(loader.waited_seconds(), 0);
}

TEST_P(loader, PassesAnExceptionOnWhereItBelongs) {
  const auto make = [](std::uint64_t position) {
    if (position == 6) fail(ErrorKind::Io, {"a disk is gone", "/data", "", ""});
    Sample sample;
    sample.position = position;
    return sample;
  };
  SampleLoader loader(make, 0, 1, GetParam(), 5);
  for (std::uint64_t n = 0; n < 6; ++n) EXPECT_EQ(loader.next().position, n);
  for (int again = 0; again < 3; ++again) expect_error(ErrorKind::Io, "a disk is gone", [&] { loader.next(); });
}

INSTANTIATE_TEST_SUITE_P(threads, loader, testing::Values(0, 1, 4));

TEST(loader_depth, NeverMoreSamplesThanAsked) {
  std::atomic<int> made{0}, most{0};
  int taken = 0;
  std::mutex mutex;
  const auto make = [&](std::uint64_t position) {
    ++made;
    {
      const std::lock_guard lock(mutex);
      most = std::max(most.load(), made.load() - taken);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    Sample sample;
    sample.position = position;
    return sample;
  };
  SampleLoader loader(make, 0, 1, 4, 3);
  for (std::uint64_t n = 0; n < 200; ++n) {
    EXPECT_EQ(loader.next().position, n);
    const std::lock_guard lock(mutex);
    ++taken;
  }
  // Between next() making room and the count above, one more may have begun.
  EXPECT_LE(most, 4);
  EXPECT_GE(most, 2);
}

TEST(loader_depth, EndsWhileThreadsAreAtWork) {
  std::atomic<int> running{0};
  {
    SampleLoader loader(
        [&](std::uint64_t) {
          ++running;
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
          --running;
          return Sample{};
        },
        0, 1, 3, 100);
    loader.next();
  }
  EXPECT_EQ(running, 0);
}

TEST(occlusion, FollowsTheTwoLimits) {
  const auto object = [](int x, int y, int width, int height) {
    SampleObject out;
    out.mask = box_mask(image::Image(height, width, 1, 1), x, y);
    out.box = out.mask.box();
    return out;
  };
  // Half of it goes: 10 px at one side are forgiven, 11 are not, unless more than 300 px are left.
  std::vector<SampleObject> objects{object(0, 0, 20, 20), object(0, 0, 21, 20), object(9, 0, 40, 20)};
  const auto kept = occlude(objects, object(10, 0, 100, 100).mask);
  EXPECT_EQ(kept, (std::vector<bool>{true, false, false}));
  ASSERT_EQ(objects.size(), 1U);
  EXPECT_EQ(objects[0].box, (std::array<float, 4>{0, 0, 10, 20}));
  std::vector<SampleObject> large{object(0, 0, 60, 43), object(0, 0, 60, 42)};
  EXPECT_EQ(occlude(large, object(7, 0, 100, 100).mask), (std::vector<bool>{true, false}));  // 301 and 294 px
}

}  // namespace divergen::stages
