#pragma once
// A small world of pictures, annotations and instances for the tests of training samples.

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "stages/augment/sample_maker.hpp"
#include "support/fixtures.hpp"

namespace divergen::stages::augment_world {

template <class Call>
void expect_error(ErrorKind kind, const std::string& part, const Call& call) {
  try {
    call();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

inline image::Image noise(int height, int width, int channels, std::uint64_t seed) {
  image::Image out(height, width, channels);
  Rng rng(seed);
  for (auto& value : out.pixels) value = static_cast<std::uint8_t>(rng.next());
  return out;
}

/// An RGBA ellipse.
inline image::Image cut_out(int height, int width, std::uint64_t seed) {
  image::Image out = noise(height, width, 4, seed);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const double dy = (y + 0.5) / height * 2 - 1, dx = (x + 0.5) / width * 2 - 1;
      out.at(y, x)[3] = dx * dx + dy * dy < 1 ? 255 : 0;
    }
  return out;
}

/// Six pictures of 40 × 60 (one without annotations, one with a crowd alone), categories 3, 7 and the extra 900, and a
/// library of instances of all three by two generators.
struct World {
  test::TemporaryFolder folder;
  lvis::Dataset dataset;
  ClassMap classes;
  config::AugmentSettings settings;

  World() {
    write_file_atomic(folder / "categories.json", R"([
      {"id": 900, "name": "tench", "role": "extra", "image_count": 2000, "frequency": "c"},
      {"id": 7, "name": "apple", "role": "eval", "image_count": 12, "frequency": "c"},
      {"id": 3, "name": "airplane", "frequency": "f", "image_count": 300}])");
    classes = read_class_map(folder / "categories.json");
    dataset.categories = {{3, "airplane", "f", 300}, {7, "apple", "c", 12}};
    for (int i = 0; i < 6; ++i) {
      write_file_atomic(folder / cat(i, ".png"), image::encode_png(noise(40, 60, 3, static_cast<std::uint64_t>(i))));
      lvis::ImageRecord record;
      record.id = 100 + i;
      record.height = 40;
      record.width = 60;
      record.file = cat(i, ".png");
      dataset.images.push_back(record);
      if (i == 4) continue;
      for (int k = 0; k < 3; ++k) add(i, k == 2 ? 7 : 3, 4.0 + 18 * k, 3.0 + 5 * k, i == 5);
    }
    dataset.rebuild_indices();
    settings.train_size = 96;
    settings.max_instances = 8;
    settings.scale_low = 0.5;
  }

  void add(int image, std::int64_t category, double x, double y, bool is_crowd) {
    lvis::Annotation annotation;
    annotation.id = static_cast<std::int64_t>(dataset.annotations.size()) + 1;
    annotation.image_id = 100 + image;
    annotation.category_id = category;
    annotation.box = {x, y, 15, 20};
    annotation.polygons = {{x, y, x + 15, y, x + 15, y + 20, x, y + 20}};
    annotation.is_crowd = is_crowd;
    dataset.annotations.push_back(annotation);
  }

  std::shared_ptr<const store::Library> library(bool with_damage = false) {
    store::LibraryTables tables;
    tables.categories = {{3, "airplane", "f", false}, {7, "apple", "c", false}, {900, "tench", "c", true}};
    tables.generators = {{"sd", "stable_diffusion", "dpmpp", "a", 20, 7.5}, {"if", "deepfloyd", "ddpm", "b", 20, 7}};
    tables.prompts = {"a photo"};
    std::vector<store::Instance> instances;
    for (int i = 0; i < 12; ++i) {
      store::Instance one;
      one.item_id = static_cast<std::uint64_t>(1000 - i);
      one.category_id = i % 3 == 0 ? 3 : i % 3 == 1 ? 7 : 900;
      one.generator = i < 6 ? 0 : 1;
      one.width = 30 + i;
      one.height = 40;
      one.source_width = one.source_height = 64;
      one.area = 500;
      one.png = with_damage && i < 9 ? "no picture" : image::encode_png(cut_out(40, 30 + i, 50 + i));
      instances.push_back(std::move(one));
    }
    const Path pool = folder / "pool";
    make_folder(pool);
    store::write_library_shard(pool / "shard-000000.h5", instances, tables);
    store::write_library_index(pool);
    return std::make_shared<const store::Library>(pool);
  }

  SampleMaker maker(std::shared_ptr<const InstancePool> pool) {
    return {dataset, folder.path(), classes, {{3, {0.4, 0.1}}, {7, {0.2, 0.2}}}, settings, std::move(pool), 42};
  }
};

inline std::shared_ptr<const InstancePool> pool_of(World& world, config::TrainSettings training = {}) {
  return std::make_shared<const InstancePool>(world.library(), training, world.classes);
}

inline void expect_equal(const Sample& a, const Sample& b) {
  EXPECT_EQ(a.position, b.position);
  EXPECT_EQ(a.image_id, b.image_id);
  EXPECT_TRUE(a.rgb == b.rgb);
  ASSERT_EQ(a.objects.size(), b.objects.size());
  for (std::size_t i = 0; i < a.objects.size(); ++i) {
    EXPECT_EQ(a.objects[i].box, b.objects[i].box);
    EXPECT_EQ(a.objects[i].cls, b.objects[i].cls);
    EXPECT_EQ(a.objects[i].source, b.objects[i].source);
    EXPECT_TRUE(a.objects[i].mask == b.objects[i].mask);
  }
}

}  // namespace divergen::stages::augment_world
