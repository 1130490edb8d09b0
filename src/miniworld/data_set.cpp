#include "miniworld/data_set.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "base/hash.hpp"
#include "miniworld/scenes.hpp"

namespace divergen::miniworld {
namespace {

using nlohmann::json;

/// Raised whenever the same options give other pictures than before, so that old data sets are made anew.
constexpr int kMakerVersion = 1;
constexpr std::size_t kMostObjects = 6;

const char* name_of(Split split) { return split == Split::Train ? "train" : "val"; }

std::vector<const Category*> evaluated(const World& world) {
  std::vector<const Category*> out;
  for (const Category& category : world.categories())
    if (!category.is_extra) out.push_back(&category);
  return out;
}

/// In how many images of the split a category lies.
std::int64_t images_of(const Category& category, Split split, const DataSetOptions& options, std::size_t categories) {
  if (split == Split::Val)
    return std::max<std::int64_t>(
        1, std::llround(2.5 * static_cast<double>(options.val_images) / static_cast<double>(categories)));
  Rng rng(derive_seed(options.seed, "images of a category", {static_cast<std::uint64_t>(category.id)}));
  const auto images = static_cast<double>(options.train_images);
  // With few images the shares shrink; the order rare < common < frequent stays.
  const double room = std::min(1.0, images / 160);
  double wanted = 0;
  if (category.frequency == "r") return std::min<std::int64_t>(rng.range(1, 4), options.train_images);
  else if (category.frequency == "c") wanted = static_cast<double>(rng.range(4, 13)) * room;
  else {
    // An image holds about 2.5 objects: with very many categories each gets less of them.
    const double share = categories > 60 ? 20.0 / static_cast<double>(categories) : 1.0;
    wanted = share * std::max(25.0 * room, images * rng.uniform(0.09, 0.15));
  }
  return std::clamp<std::int64_t>(std::llround(wanted), 2, options.train_images);
}

/// How many objects each image gets, `total` in all: one each, the rest at random, more on busy images.
std::vector<std::size_t> draw_capacities(std::size_t images, std::size_t total, Rng& rng) {
  std::vector<std::size_t> capacity(images, 0);
  std::vector<double> busyness(images);
  for (double& b : busyness) b = rng.uniform(0.15, 1);
  total = std::min(total, images * kMostObjects);
  for (std::size_t given = 0; given < total;) {
    const std::size_t at = given < images ? given : rng.below(images);
    if (given >= images && (capacity[at] >= kMostObjects || !rng.chance(busyness[at]))) continue;
    ++capacity[at];
    ++given;
  }
  rng.shuffle(capacity);
  return capacity;
}

lvis::ImageRecord image_record(std::int64_t id, Split split, const DataSetOptions& options) {
  char file[40];
  std::snprintf(file, sizeof file, "%s/%06lld.png", name_of(split), static_cast<long long>(id));
  lvis::ImageRecord record;
  record.id = id;
  record.height = record.width = options.size;
  record.file = file;
  record.has_federated = true;
  return record;
}

/// Federated lists: every category is verified in every image, and one image in 25 is marked as not exhaustively
/// annotated for one of its categories, as happens in LVIS.
void fill_federated(lvis::ImageRecord& record, const std::set<std::int64_t>& shown,
                    const std::vector<const Category*>& categories, Rng& rng) {
  for (const Category* category : categories)
    if (!shown.contains(category->id)) record.negative.push_back(category->id);
  if (!shown.empty() && rng.chance(0.04))
    record.not_exhaustive.push_back(*std::next(shown.begin(), static_cast<std::ptrdiff_t>(rng.below(shown.size()))));
}

lvis::Dataset make_split(const World& world, Split split, const Path& out, const DataSetOptions& options) {
  const auto categories = evaluated(world);
  const auto dealt = deal_categories(world, split, options);
  make_folder(out / "images" / name_of(split));
  lvis::Dataset dataset;
  std::map<std::int64_t, std::int64_t> image_count;
  for (std::size_t i = 0; i < dealt.size(); ++i) {
    Rng rng(derive_seed(options.seed, name_of(split), {i}));
    const Scene scene = compose_scene(world, dealt[i], options.size, rng);
    lvis::ImageRecord record = image_record(static_cast<std::int64_t>(i) + 1, split, options);
    write_file_atomic(out / "images" / record.file, image::encode_png(scene.rgb, 3));
    std::set<std::int64_t> shown;
    for (const SceneObject& object : scene.objects) {
      lvis::Annotation annotation;
      annotation.id = static_cast<std::int64_t>(dataset.annotations.size()) + 1;
      annotation.image_id = record.id;
      annotation.category_id = object.category_id;
      annotation.box = object.box;
      annotation.area = object.area;
      annotation.polygons = object.polygons;
      dataset.annotations.push_back(std::move(annotation));
      shown.insert(object.category_id);
    }
    for (std::int64_t id : shown) ++image_count[id];
    fill_federated(record, shown, categories, rng);
    dataset.images.push_back(std::move(record));
  }
  for (const Category* category : categories)
    dataset.categories.push_back({category->id, category->name, category->frequency, image_count[category->id]});
  dataset.rebuild_indices();
  return dataset;
}

/// The world's metadata with the counts of the training set; extra categories, of which it shows nothing, get the
/// median count of the frequent ones (the metadata's 2,000 lies there among LVIS' counts).
json category_info(const lvis::Dataset& train, const World& world) {
  std::map<std::int64_t, std::int64_t> instances;
  for (const auto& annotation : train.annotations) ++instances[annotation.category_id];
  std::vector<std::int64_t> frequent;
  for (const auto& category : train.categories)
    if (category.frequency == "f") frequent.push_back(category.image_count);
  std::sort(frequent.begin(), frequent.end());
  const std::int64_t median = frequent.empty() ? 1 : frequent[frequent.size() / 2];
  json info = json::array();
  for (const Category& category : world.categories()) {
    const std::int64_t id = category.id;
    json& entry = info.emplace_back(json{{"id", id},
                                         {"name", category.name},
                                         {"def", category.definition},
                                         {"frequency", category.frequency},
                                         {"role", category.is_extra ? "extra" : "eval"}});
    const auto found = train.category_index.find(id);
    entry["image_count"] = found == train.category_index.end() ? median : train.categories[found->second].image_count;
    entry["instance_count"] = found == train.category_index.end() ? median : instances[id];
  }
  return info;
}

json area_statistics(const lvis::Dataset& train) {
  std::map<std::int64_t, std::vector<double>> sizes;
  for (const auto& a : train.annotations) {
    const auto& image = train.images[train.image_index.at(a.image_id)];
    sizes[a.category_id].push_back(std::sqrt(a.box[2] * a.box[3] / (static_cast<double>(image.height) * image.width)));
  }
  json out = json::object();
  for (const auto& [id, values] : sizes) {
    double mean = 0, variance = 0;
    for (double v : values) mean += v / static_cast<double>(values.size());
    for (double v : values) variance += (v - mean) * (v - mean) / static_cast<double>(values.size());
    out[std::to_string(id)] = {mean, std::sqrt(variance)};
  }
  return out;
}

std::string stamp_of(const Path& world_folder, const DataSetOptions& options) {
  const auto hash = [&](const char* file) { return to_hex(hash_file(world_folder / file)); };
  return json{{"maker", kMakerVersion},
              {"train_images", options.train_images},
              {"val_images", options.val_images},
              {"size", options.size},
              {"seed", options.seed},
              {"others", options.others},
              {"world",
               {{"categories", hash("categories.json")},
                {"sprites.json", hash("sprites/sprites.json")},
                {"sprites.png", hash("sprites/sprites.png")}}}}
             .dump(1) +
         "\n";
}

}  // namespace

std::vector<std::vector<std::int32_t>> deal_categories(const World& world, Split split, const DataSetOptions& options) {
  auto categories = evaluated(world);
  const auto images = static_cast<std::size_t>(split == Split::Train ? options.train_images : options.val_images);
  Rng rng(derive_seed(options.seed, name_of(split)));
  std::vector<std::pair<std::int64_t, const Category*>> counts;
  std::size_t total = 0;
  for (const Category* category : categories) {
    counts.emplace_back(images_of(*category, split, options, categories.size()), category);
    total += static_cast<std::size_t>(counts.back().first);
  }
  std::vector<std::size_t> room = draw_capacities(images, total, rng);

  std::vector<std::vector<std::int32_t>> dealt(images);
  std::vector<std::size_t> order(images);
  for (std::size_t i = 0; i < images; ++i) order[i] = i;
  // The scarcest first: none of their few places may be lost to others.
  std::stable_sort(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [count, category] : counts) {
    rng.shuffle(order);
    std::stable_partition(order.begin(), order.end(), [&](std::size_t i) { return room[i] > 0; });
    for (std::size_t k = 0, left = static_cast<std::size_t>(count); k < images && left > 0; ++k) {
      const std::size_t at = order[k];
      if (dealt[at].size() >= kMostObjects) continue;
      dealt[at].push_back(category->id);
      if (room[at] > 0) --room[at];
      --left;
    }
  }
  // Now and then two of a kind, but in training not of rare ones.
  for (auto& image : dealt) {
    if (image.empty() || image.size() >= kMostObjects || !rng.chance(0.2)) continue;
    const std::int32_t id = image[rng.below(image.size())];
    if (split == Split::Val || world.category(id).frequency != "r") image.push_back(id);
  }
  return dealt;
}

bool make_data_set(const Path& world_folder, const Path& out, const DataSetOptions& options) {
  if (options.train_images < 8 || options.val_images < 8 || options.size < 48)
    fail(ErrorKind::Config,
         {"no data set can be made", out.string(),
          cat("it would have ", options.train_images, " and ", options.val_images, " images of ", options.size, " px"),
          "ask for at least 8 images each, of at least 48 px"});
  const Path stamp_file = out / "miniworld.json";
  const std::string stamp = stamp_of(world_folder, options);
  if (std::filesystem::exists(stamp_file) && read_file(stamp_file) == stamp) return false;
  remove_quietly(stamp_file);  // while it is being made anew, nobody takes a mixture for the whole
  const World whole(world_folder);
  const World world = options.others ? whole.of_others() : whole;
  const lvis::Dataset train = make_split(world, Split::Train, out, options);
  const lvis::Dataset val = make_split(world, Split::Val, out, options);
  lvis::write_dataset(train, out / "train.json");
  lvis::write_dataset(val, out / "val.json");
  write_file_atomic(out / "categories.json", category_info(train, world).dump(1) + "\n");
  write_file_atomic(out / "area_mean_std2.json", area_statistics(train).dump(1) + "\n");
  write_file_atomic(stamp_file, stamp);
  return true;
}

}  // namespace divergen::miniworld
