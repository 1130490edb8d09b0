#pragma once
// The data set of the mini world: an LVIS v1 training set with a long tail, a balanced validation set, and the metadata
// that LVIS has. A pure function of the seed.
//
//   train.json, val.json         LVIS v1; file names are "train/000001.png", below images/
//   images/train/, images/val/   PNG, RGB
//   categories.json              as data/lvis/lvis_v1_train_cat_info.json, with "role": "eval" | "extra"
//   area_mean_std2.json          category id -> [mean, population deviation] of sqrt(box area / image area)
//   miniworld.json               the parameters it was made with; written last

#include <cstdint>

#include "lvis/dataset.hpp"
#include "miniworld/sprites.hpp"

namespace divergen::miniworld {

struct DataSetOptions {
  std::int64_t train_images = 400, val_images = 500;
  int size = 128;  // side of a picture, px
  std::uint64_t seed = 1;
  bool others = false;  // of World::of_others(): a data set to pretrain a detector on
};

enum class Split { Train, Val };

/// Categories that each image of a split shows, with repeats. Training: rare categories lie in 1-3 images, common ones
/// in 4-12, frequent ones in 25 and more (fewer where there are too few images for that); validation: all equally
/// often, 2.7 objects an image.
std::vector<std::vector<std::int32_t>> deal_categories(const World& world, Split split, const DataSetOptions& options);

/// Writes the data set of `world` (read from `world_folder`) to `out`. Does nothing, and returns false, when it stands
/// there already, made from the same world with the same options. Throws Error(Config | Io | NoSpace).
bool make_data_set(const Path& world_folder, const Path& out, const DataSetOptions& options);

}  // namespace divergen::miniworld
