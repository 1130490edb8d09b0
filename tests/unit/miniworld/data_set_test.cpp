#include "miniworld/data_set.hpp"

#include <cmath>
#include <map>
#include <set>

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "image/image.hpp"

namespace divergen::miniworld {
namespace {

const Path kWorld = Path(DIVERGEN_SOURCE_DIR) / "data/mini";

struct Folder {
  Path path;
  explicit Folder(const std::string& name)
      : path(std::filesystem::temp_directory_path() / cat("divergen-", name, "-", ::getpid())) {
    std::filesystem::remove_all(path);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

TEST(Deal, TrainingHasALongTailAndValidationIsBalanced) {
  const World world(kWorld);
  for (std::uint64_t seed : {1u, 2u, 3u}) {
    DataSetOptions options;
    options.seed = seed;
    for (Split split : {Split::Train, Split::Val}) {
      std::map<std::int32_t, int> images, instances;
      for (const auto& image : deal_categories(world, split, options)) {
        EXPECT_LE(image.size(), 6u);
        for (std::int32_t id : image) ++instances[id];
        for (std::int32_t id : std::set<std::int32_t>(image.begin(), image.end())) ++images[id];
      }
      for (const Category& category : world.categories()) {
        const int n = images[category.id];
        if (category.is_extra) {
          EXPECT_EQ(n, 0);
        } else if (split == Split::Val) {
          EXPECT_GE(n, 25) << category.name;
          EXPECT_LE(instances[category.id], 36) << category.name;
        } else if (category.frequency == "r") {
          EXPECT_TRUE(n >= 1 && n <= 3) << category.name << " " << n;
          EXPECT_EQ(instances[category.id], n);
        } else if (category.frequency == "c") {
          EXPECT_TRUE(n >= 4 && n <= 12) << category.name << " " << n;
        } else {
          EXPECT_GE(n, 25) << category.name;
        }
      }
    }
  }
}

TEST(DataSet, IsAWholeLvisDataSetMadeOnce) {
  const Folder folder("mini-data");
  DataSetOptions options{40, 24, 96, 5};
  EXPECT_TRUE(make_data_set(kWorld, folder.path, options));
  const lvis::Dataset train = lvis::read_dataset(folder.path / "train.json");
  const lvis::Dataset val = lvis::read_dataset(folder.path / "val.json");
  EXPECT_EQ(train.images.size(), 40u);
  EXPECT_EQ(val.images.size(), 24u);
  EXPECT_EQ(train.categories.size(), 48u);

  std::map<std::int64_t, std::set<std::int64_t>> shown;
  std::map<std::int64_t, std::vector<double>> sizes;
  for (const auto& a : train.annotations) {
    shown[a.image_id].insert(a.category_id);
    sizes[a.category_id].push_back(std::sqrt(a.box[2] * a.box[3] / (96.0 * 96.0)));
    EXPECT_EQ(static_cast<double>(mask::area(train.mask_of(a))), a.area);
  }
  std::map<std::int64_t, std::int64_t> counts;
  for (const auto& image : train.images) {
    EXPECT_TRUE(image.has_federated);
    EXPECT_EQ(image.negative.size() + shown[image.id].size(), 48u);
    for (std::int64_t id : image.negative) EXPECT_FALSE(shown[image.id].contains(id));
    for (std::int64_t id : image.not_exhaustive) EXPECT_TRUE(shown[image.id].contains(id));
    for (std::int64_t id : shown[image.id]) ++counts[id];
    const auto picture = image::decode(read_file(folder.path / "images" / image.file));
    ASSERT_TRUE(picture.image) << picture.problem;
    EXPECT_EQ(picture.image->width, 96);
  }
  for (const auto& category : train.categories) EXPECT_EQ(category.image_count, counts[category.id]);

  const auto info = nlohmann::json::parse(read_file(folder.path / "categories.json"));
  ASSERT_EQ(info.size(), 56u);
  int extra = 0;
  for (const auto& entry : info) {
    extra += entry.at("role") == "extra";
    if (entry.at("role") == "eval") EXPECT_EQ(entry.at("image_count"), counts[entry.at("id")]);
    else EXPECT_GT(entry.at("image_count"), 0);
  }
  EXPECT_EQ(extra, 8);

  const auto areas = nlohmann::json::parse(read_file(folder.path / "area_mean_std2.json"));
  EXPECT_EQ(areas.size(), sizes.size());
  for (const auto& [id, values] : sizes) {
    double mean = 0, square = 0;
    for (double v : values) mean += v / static_cast<double>(values.size());
    for (double v : values) square += v * v / static_cast<double>(values.size());
    EXPECT_NEAR(areas.at(std::to_string(id))[0], mean, 1e-12);
    EXPECT_NEAR(areas.at(std::to_string(id))[1], std::sqrt(std::max(0.0, square - mean * mean)), 1e-7);
  }
}

TEST(DataSet, IsAPureFunctionOfItsOptions) {
  const Folder first("mini-a"), second("mini-b");
  DataSetOptions options{12, 8, 64, 9};
  ASSERT_TRUE(make_data_set(kWorld, first.path, options));
  ASSERT_TRUE(make_data_set(kWorld, second.path, options));
  for (const char* file : {"train.json", "val.json", "categories.json", "area_mean_std2.json", "miniworld.json",
                           "images/train/000003.png", "images/val/000008.png"})
    EXPECT_EQ(read_file(first.path / file), read_file(second.path / file)) << file;
  EXPECT_NE(read_file(first.path / "images/train/000001.png"), read_file(first.path / "images/val/000001.png"));

  const std::string before = read_file(first.path / "images/train/000001.png");
  const auto time = std::filesystem::last_write_time(first.path / "train.json");
  EXPECT_FALSE(make_data_set(kWorld, first.path, options));
  EXPECT_EQ(std::filesystem::last_write_time(first.path / "train.json"), time);
  options.seed = 10;
  EXPECT_TRUE(make_data_set(kWorld, first.path, options));
  EXPECT_NE(read_file(first.path / "images/train/000001.png"), before);
}

TEST(DataSet, RefusesSizesThatMakeNoSense) {
  const Folder folder("mini-none");
  EXPECT_THROW(make_data_set(kWorld, folder.path, {0, 100, 128, 1}), Error);
  EXPECT_THROW(make_data_set(kWorld, folder.path, {100, 100, 16, 1}), Error);
  EXPECT_FALSE(std::filesystem::exists(folder.path));
}

}  // namespace
}  // namespace divergen::miniworld
