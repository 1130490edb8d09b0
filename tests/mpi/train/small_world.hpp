#pragma once
// A data set of a few 64 px pictures with coloured rectangles, and a configuration whose detector trains on it in
// seconds. One folder for all ranks, removed when the object goes.

#include <unistd.h>

#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/rng.hpp"
#include "image/image.hpp"
#include "lvis/dataset.hpp"
#include "mpi/mpi_main.hpp"
#include "stages/common/context.hpp"
#include "store/library.hpp"

namespace divergen::test {

inline constexpr int kSide = 64;

/// The same on all ranks.
inline lvis::Dataset rectangles(const Path& images, std::uint64_t seed, std::int64_t count, std::int64_t first_id) {
  static constexpr std::uint8_t kColours[3][3] = {{230, 30, 30}, {30, 200, 40}, {40, 60, 240}};
  lvis::Dataset out;
  out.categories = {{11, "red thing", "r", 2}, {12, "green thing", "c", 20}, {15, "blue thing", "f", 200}};
  Rng rng(seed);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t id = first_id + i;
    const int height = kSide, width = i % 3 == 2 ? kSide + 16 : kSide;
    image::Image picture(height, width, 3);
    for (std::uint8_t& value : picture.pixels) value = static_cast<std::uint8_t>(90 + rng.below(40));
    const std::string name = cat("val/", id, ".png");
    lvis::ImageRecord record{id, height, width, name, true, {11, 12, 15}, {}};
    const auto objects = static_cast<std::int64_t>(1 + rng.below(3));
    for (std::int64_t k = 0; k < objects; ++k) {
      const auto cls = rng.below(3);
      const auto w = rng.range(12, 30), h = rng.range(12, 30);
      const auto x = rng.range(0, width - w), y = rng.range(0, height - h);
      for (auto v = y; v < y + h; ++v)
        for (auto u = x; u < x + w; ++u)
          std::copy_n(kColours[cls], 3, picture.at(static_cast<int>(v), static_cast<int>(u)));
      const auto x0 = static_cast<double>(x), y0 = static_cast<double>(y), x1 = static_cast<double>(x + w),
                 y1 = static_cast<double>(y + h);
      lvis::Annotation a;
      a.id = static_cast<std::int64_t>(out.annotations.size()) + 1;
      a.image_id = id;
      a.category_id = out.categories[cls].id;
      a.box = {x0, y0, x1 - x0, y1 - y0};
      a.area = a.box[2] * a.box[3];
      a.polygons = {{x0, y0, x1, y0, x1, y1, x0, y1}};
      out.annotations.push_back(a);
      std::erase(record.negative, a.category_id);
    }
    out.images.push_back(record);
    if (world().is_root()) {
      make_folder((images / name).parent_path());
      write_file_atomic(images / name, image::encode_png(picture));
    }
  }
  out.rebuild_indices();
  return out;
}

class SmallWorld {
 public:
  SmallWorld() {
    static int number = 0;
    const Path mine = std::filesystem::temp_directory_path() / cat("divergen-train-", ::getpid(), "-", number++);
    root_ = world().broadcast_text(mine.string());
    config.data = {root_ / "train.json", root_ / "train",           root_ / "val.json",
                   root_ / "val",        root_ / "categories.json", {}};
    const lvis::Dataset train = rectangles(config.data.train_images, 3, 9, 100);
    const lvis::Dataset val = rectangles(config.data.val_images, 4, 11, 500);
    if (world().is_root()) {
      lvis::write_dataset(train, config.data.train_json);
      lvis::write_dataset(val, config.data.val_json);
      nlohmann::json categories = nlohmann::json::array();
      for (const auto& c : train.categories)
        categories.push_back(
            {{"id", c.id}, {"name", c.name}, {"frequency", c.frequency}, {"image_count", c.image_count}});
      categories.push_back({{"id", 13}, {"name", "other"}, {"image_count", 50}, {"role", "extra"}});
      write_file_atomic(config.data.categories, categories.dump());
    }
    world().barrier();
    config.augment.train_size = kSide;
    config.augment.scale_low = 0.6;
    config.augment.scale_high = 1.4;
    auto& d = config.detector;
    d.depths = {1, 1, 1, 1};
    d.stem_channels = 8;
    d.base_width = 4;
    d.fpn_channels = 16;
    d.tower_convs = 1;
    d.group_norm_groups = 4;
    d.box_fc = 16;
    d.mask_channels = 8;
    d.mask_convs = 1;
    d.pre_nms_train = d.pre_nms_test = 60;
    d.post_nms_train = d.post_nms_test = 30;
    d.roi_batch = 24;
    d.fed_categories = 3;
    d.score_threshold = 0.001;  // a detector of twelve steps is sure of nothing
    d.detections_per_image = 20;
    config.evaluate.short_side = 64;
    config.evaluate.long_side = 96;
    config.evaluate.batch = 2;
    training.name = "small";
    training.use_pool = false;
    training.iterations = 12;
    training.batch = 6;
    training.lr = 2e-3;
    training.warmup = 4;
    training.ema = 0.9;
    training.checkpoint_every = 4;
    training.log_every = 2;
  }
  ~SmallWorld() {
    world().barrier();  // others may still be reading
    if (!world().is_root()) return;
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  SmallWorld(const SmallWorld&) = delete;
  SmallWorld& operator=(const SmallWorld&) = delete;

  /// Twelve cut-outs of solid colour: three of each evaluated category and three of the extra one (13).
  static void write_library(const stages::RunContext& context) {
    if (world().is_root()) {
      store::LibraryTables tables;
      tables.categories = {{11, "red thing", "r", false},
                           {12, "green thing", "c", false},
                           {13, "other", "", true},
                           {15, "blue thing", "f", false}};
      tables.generators = {{"sd", "stable_diffusion", "dpmpp", "hash", 15, 3.0}};
      tables.prompts = {"a thing"};
      std::vector<store::Instance> instances;
      for (std::uint64_t i = 0; i < 12; ++i) {
        image::Image cut(16, 20, 4, 255);
        for (int y = 0; y < cut.height; ++y)
          for (int x = 0; x < cut.width; ++x) cut.at(y, x)[i % 3] = static_cast<std::uint8_t>(20 * i);
        store::Instance one;
        one.item_id = one.seed = i + 1;
        one.category_id = tables.categories[i % 4].id;
        one.width = cut.width;
        one.height = cut.height;
        one.source_width = one.source_height = 32;
        one.area = 16 * 20;
        one.png = image::encode_png(cut);
        instances.push_back(one);
      }
      make_folder(context.dir.library());
      store::write_library_shard(context.dir.shard("pool", 0), instances, tables);
      store::write_library_index(context.dir.library());
    }
    world().barrier();
  }

  /// A run directory of this name in the same folder.
  stages::RunContext run(const std::string& name) const {
    return {config, stages::RunDirectory(root_ / name), world(), [] { return false; }};
  }

  config::RunConfig config;
  config::TrainSettings training;

 private:
  Path root_;
};

}  // namespace divergen::test
