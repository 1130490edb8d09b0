#include "stages/filter/reference.hpp"

#include <cstring>
#include <set>

#include "base/hash.hpp"
#include "base/log.hpp"
#include "lvis/dataset.hpp"
#include "stages/common/sharded.hpp"
#include "stages/common/shared_dataset.hpp"
#include "stages/filter/crop_maker.hpp"
#include "stages/filter/similarity.hpp"

namespace divergen::stages {
namespace {

constexpr const char* kStage = "filter.reference";
constexpr const char* kSumsFormat = "divergen-reference-sums";
constexpr int kSumsVersion = 1;
constexpr std::size_t kCropsPerShard = 256;  // some minutes of CLIP ViT-L on a core: little is lost with a killed rank

std::set<std::int32_t> evaluated_ids(const Plan& plan) {
  std::set<std::int32_t> ids;
  for (const PlanCategory& category : plan.categories)
    if (!category.is_extra) ids.insert(category.id);
  return ids;
}

void check_inputs(const config::DataSettings& data) {
  const auto missing = [](const char* key, const Path& path, const char* what) {
    if (path.empty())
      fail(ErrorKind::Config, {cat(what, " not named"), key, "the filter compares with real crops of each category",
                               cat("set ", key, ", or plan extra categories only")});
    fail(ErrorKind::Io, {cat(what, " missing"), path.string(), "there is nothing of this name", cat("correct ", key)});
  };
  if (!std::filesystem::is_regular_file(data.train_json))
    missing("data.train_json", data.train_json, "the training annotations are");
  if (!std::filesystem::is_directory(data.train_images))
    missing("data.train_images", data.train_images, "the folder of training pictures is");
}

std::string fingerprint(const RunContext& context, const std::set<std::int32_t>& ids, const std::string& clip_hash) {
  const auto& settings = context.config.filter;
  std::string text = cat(kReferenceFormat, kReferenceVersion, '\n', clip_hash, '\n', settings.crop_padding, '\n',
                         settings.crops_per_category, '\n', settings.batch, '\n', kCropsPerShard, '\n',
                         to_hex(hash_file(context.config.data.train_json)), '\n');
  for (const std::int32_t id : ids) text += cat(id, ',');
  // What stands at its default says nothing, so that features from before there was a choice stay good.
  if (settings.crop_shape != "box" || settings.crop_fill != "blur")
    text += cat('\n', settings.crop_shape, '\n', settings.crop_fill);
  return to_hex(hash128(text));
}

// ---- crops and their features -------------------------------------------------------------------------------------

/// Sums of the features of the crops, a row for each category among them.
store::Table sum_features(std::span<const CropPlace> places, CropMaker& maker, const ClipScorer& scorer) {
  std::map<std::int32_t, FeatureSum> sums;
  std::map<std::string, std::int64_t> rejected;
  std::vector<image::Image> crops;
  std::vector<std::int32_t> owners;
  const auto flush = [&] {
    const auto features = scorer.image_features(crops);
    for (std::size_t i = 0; i < crops.size(); ++i) sums[owners[i]].add(features[i]);
    crops.clear();
    owners.clear();
  };
  for (std::size_t i = 0; i < places.size(); ++i) {
    auto crop = maker.make(places, i, rejected);
    if (!crop) continue;
    crops.push_back(std::move(*crop));
    owners.push_back(places[i].category_id);
    if (crops.size() == scorer.batch()) flush();
  }
  flush();

  std::vector<std::int32_t> categories;
  std::vector<std::int64_t> counts;
  std::vector<std::string> heap;
  for (const auto& [category, sum] : sums) {
    categories.push_back(category);
    counts.push_back(sum.count());
    heap.push_back(sum.bytes());
  }
  store::Table table(kSumsFormat, kSumsVersion);
  table.add("category", std::move(categories));
  table.add("crops", std::move(counts));
  table.set_heap(heap);
  set_rejected(table, rejected);
  return table;
}

// ---- the file ------------------------------------------------------------------------------------------------------

/// Adds up the shards in their order.
store::Table merge(const RunDirectory& dir, std::size_t shards) {
  std::map<std::int32_t, FeatureSum> sums;
  for (std::size_t s = 0; s < shards; ++s) {
    const store::Table table = read_shard(dir, kStage, s, kSumsFormat);
    const auto& categories = table.get<std::int32_t>("category");
    const auto& counts = table.get<std::int64_t>("crops");
    for (std::size_t row = 0; row < table.rows(); ++row)
      sums[categories[row]].merge(FeatureSum::from_bytes(table.heap(row), counts[row]));
  }
  std::vector<std::int32_t> categories;
  std::vector<std::int64_t> counts;
  std::vector<std::string> heap;
  for (const auto& [category, sum] : sums) {
    const std::vector<float> mean = sum.mean();
    categories.push_back(category);
    counts.push_back(sum.count());
    heap.emplace_back(reinterpret_cast<const char*>(mean.data()), mean.size() * sizeof(float));
  }
  store::Table table(kReferenceFormat, kReferenceVersion);
  table.add("category", std::move(categories));
  table.add("crops", std::move(counts));
  table.set_heap(heap);
  return table;
}

Reference to_reference(const store::Table& table) {
  Reference reference;
  const auto& categories = table.get<std::int32_t>("category");
  const auto& counts = table.get<std::int64_t>("crops");
  for (std::size_t row = 0; row < table.rows(); ++row) {
    Reference::Entry& entry = reference.categories[categories[row]];
    entry.crops = counts[row];
    entry.mean.resize(table.heap(row).size() / sizeof(float));
    std::memcpy(entry.mean.data(), table.heap(row).data(), entry.mean.size() * sizeof(float));
  }
  return reference;
}

/// Whether the file of the run directory is whole and made of the same.
bool stands(const Path& file, const std::string& fingerprint) {
  if (!std::filesystem::exists(file)) return false;
  try {
    const auto head = store::read_table_head(file);
    const auto found = head.attributes.find("fingerprint");
    return head.format == kReferenceFormat && found != head.attributes.end() && found->second == fingerprint &&
           !store::verify_table(file);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data) throw;
    return false;
  }
}

/// Nothing of the pass is kept, so that it starts over when the cause is mended.
void forget(const RunDirectory& dir) {
  std::error_code ignored;
  std::filesystem::remove_all(dir.shard(kStage, 0).parent_path(), ignored);
  remove_quietly(dir.record(kStage));
}

void write_reference(const RunDirectory& dir, std::size_t shards, std::size_t places, const std::string& fingerprint) {
  store::Table table = merge(dir, shards);
  if (table.rows() == 0 && places > 0) {
    forget(dir);
    fail(ErrorKind::Data, {"there is no real crop to compare with", cat(places, " annotations"),
                           "not one of their pictures could be used (see the log)",
                           "correct data.train_images or the pictures, then run it again"});
  }
  table.attributes["fingerprint"] = fingerprint;
  make_folder(dir.reference().parent_path());
  store::write_table(table, dir.reference());
  const auto record = read_record(dir, kStage);
  if (record && record->rejected.contains(kUnreadablePicture))
    log::warn("filter: ", record->rejected.at(kUnreadablePicture), " of ", places,
              " real crops are left out, since their pictures cannot be read;",
              " to count them in when these are mended, remove ", dir.reference().string(), " and ",
              dir.shard(kStage, 0).parent_path().string());
  log::info("filter: mean features of the real crops of ", table.rows(), " categories");
}

/// One data set for all ranks of a node, of which each plans the same crops.
struct Crops {
  lvis::Dataset dataset;
  std::vector<CropPlace> places;
};

/// A wrong folder is told at once, not by a warning for each of its pictures.
void check_pictures(const config::DataSettings& data, const Crops& crops) {
  constexpr std::size_t kLooks = 100;
  std::set<std::size_t> looked;
  for (const CropPlace& place : crops.places) {
    if (looked.size() == kLooks) break;
    if (looked.insert(place.image).second &&
        std::filesystem::exists(data.train_images / crops.dataset.images[place.image].file))
      return;
  }
  if (looked.empty()) return;
  const Path first = data.train_images / crops.dataset.images[*looked.begin()].file;
  fail(ErrorKind::Io, {"the training pictures are missing", first.string(),
                       cat("neither it nor ", looked.size() - 1, " others of data.train_json exist"),
                       "correct data.train_images: the file names of data.train_json are looked up in it"});
}

void make_file(const RunContext& context, const std::set<std::int32_t>& ids, const std::string& fingerprint,
               const LazyScorer& scorer) {
  Crops crops;
  crops.dataset = read_shared_dataset(context.world, context.config.data.train_json);
  context.world.together([&] {
    crops.places = plan_crops(crops.dataset, ids, context.config.filter.crops_per_category);
    if (context.world.is_root()) check_pictures(context.config.data, crops);
  });
  const std::size_t places = crops.places.size();
  const auto range = [&](std::size_t shard) {
    return std::pair(shard * kCropsPerShard, std::min(places, (shard + 1) * kCropsPerShard));
  };
  std::optional<CropMaker> maker;

  ShardedStage stage;
  stage.name = kStage;
  stage.shards = (places + kCropsPerShard - 1) / kCropsPerShard;
  stage.fingerprint = fingerprint;
  stage.items = [&](std::size_t shard) { return static_cast<std::int64_t>(range(shard).second - range(shard).first); };
  stage.make = [&](std::size_t shard) {
    if (!maker) maker.emplace(crops.dataset, context.config.data.train_images, context.config.filter);
    const auto [first, last] = range(shard);
    return sum_features(std::span(crops.places).subspan(first, last - first), *maker, scorer());
  };
  run_sharded(context, stage);
  context.world.together([&] {
    if (context.world.is_root()) write_reference(context.dir, stage.shards, places, fingerprint);
  });
}

}  // namespace

Reference make_reference(const RunContext& context, const Plan& plan, const std::string& clip_hash,
                         const LazyScorer& scorer) {
  const std::set<std::int32_t> ids = evaluated_ids(plan);
  if (ids.empty()) return {};
  std::string expected;
  bool is_there = false;
  context.world.together([&] {
    if (!context.world.is_root()) return;
    check_inputs(context.config.data);
    expected = fingerprint(context, ids, clip_hash);
    is_there = stands(context.dir.reference(), expected);
  });
  expected = context.world.broadcast_text(std::move(expected));
  if (!context.world.any(is_there)) make_file(context, ids, expected, scorer);

  Reference reference;
  context.world.together([&] { reference = to_reference(store::read_table(context.dir.reference())); });
  reference.fingerprint = expected;
  return reference;
}

}  // namespace divergen::stages
