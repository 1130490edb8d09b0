#include "stages/augment/sample_maker.hpp"

#include <algorithm>
#include <mutex>
#include <set>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/rng.hpp"
#include "stages/augment/paste.hpp"
#include "stages/augment/picture_cache.hpp"
#include "stages/augment/repeat_factor.hpp"
#include "stages/augment/resize_crop.hpp"

namespace divergen::stages {
namespace {

// Decoded cut-outs of a miniature run fit as a whole; of a full-size library they are the few that come twice.
constexpr std::size_t kInstanceBytes = std::size_t{128} << 20;
// Pictures of the data set are kept only where all of them fit: else each is wanted once an epoch, and keeping is vain.
constexpr std::size_t kImageBytes = std::size_t{256} << 20;

/// Things that could not be read: each is reported once and counted once.
class Unreadable {
 public:
  explicit Unreadable(const char* kind) : kind_(kind) {}
  void add(std::size_t key, const std::string& object, const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (keys_.insert(key).second) log::warn(kind_, " is left out: ", object, ": ", why);
  }
  bool contains(std::size_t key) const {
    const std::lock_guard lock(mutex_);
    return keys_.contains(key);
  }
  std::set<std::size_t> keys() const {
    const std::lock_guard lock(mutex_);
    return keys_;
  }

 private:
  const char* kind_;
  mutable std::mutex mutex_;
  std::set<std::size_t> keys_;
};

class PoolSource : public InstanceSource {
 public:
  explicit PoolSource(std::shared_ptr<const InstancePool> pool) : pool_(std::move(pool)) {}
  std::size_t classes() const override { return pool_->classes().size(); }
  std::int64_t cls(std::size_t index) const override { return pool_->classes()[index]; }
  std::size_t instances(std::size_t index) const override { return pool_->by_class()[index].size(); }
  Instance load(std::size_t index, std::size_t instance) const override {
    const std::size_t entry = pool_->by_class()[index][instance];
    return {cache_.get(entry, [&] { return read(entry); }), true};
  }
  std::set<std::size_t> unreadable() const { return unreadable_.keys(); }

 private:
  PictureCache::Picture read(std::size_t entry) const {
    if (unreadable_.contains(entry)) return nullptr;
    const std::string name = cat("instance ", entry, " of the library");
    try {
      image::Decoded decoded = image::decode(pool_->library().read_png(entry), image::Channels::Rgba);
      if (decoded.image) return std::make_shared<const image::Image>(std::move(*decoded.image));
      unreadable_.add(entry, name, decoded.problem);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::Data) throw;
      unreadable_.add(entry, name, error.what());
    }
    return nullptr;
  }

  std::shared_ptr<const InstancePool> pool_;
  mutable PictureCache cache_{kInstanceBytes};
  mutable Unreadable unreadable_{"an instance"};
};

void check_settings(const config::AugmentSettings& s) {
  const auto wrong = [](const char* key, const std::string& value, const char* remedy) {
    fail(ErrorKind::Config, {"the augmentation cannot be set up", cat("augment.", key, " = ", value), "", remedy});
  };
  if (s.train_size < 1 || s.train_size > 16384)
    wrong("train_size", std::to_string(s.train_size), "use 1 .. 16384 pixels");
  if (!(s.scale_low > 0 && s.scale_low <= s.scale_high))
    wrong("scale_low", std::to_string(s.scale_low), "it must be above 0 and at most scale_high");
  if (s.max_instances < 1) wrong("max_instances", std::to_string(s.max_instances), "use at least 1 (none is pasted)");
  if (s.blend.empty()) wrong("blend", "[]", "name at least one way to blend");
  for (const std::string& name : s.blend) static_cast<void>(blend_of(name));
}

}  // namespace

struct SampleMaker::State {
  const lvis::Dataset& dataset;
  Path images;
  std::map<std::int64_t, std::int64_t> class_of;
  AreaStatistics statistics_of_class;
  ResizeCropRules resize;
  PasteRules paste;
  std::uint64_t seed = 0;

  std::vector<std::uint32_t> used;                      // indices into dataset.images
  std::vector<std::vector<std::uint32_t>> annotations;  // of each used image, crowds left out
  std::unique_ptr<RepeatFactorStream> stream;
  std::unique_ptr<PoolSource> pool;
  std::unique_ptr<PictureCache> pictures;  // only where all fit
  Unreadable unreadable{"an image"};

  void index_annotations(double repeat_threshold);
  PictureCache::Picture read(std::size_t index);
  PictureCache::Picture picture(std::size_t index);
  Sample make(std::uint64_t position);
};

void SampleMaker::State::index_annotations(double repeat_threshold) {
  std::vector<std::vector<std::uint32_t>> of_image(dataset.images.size());
  std::vector<std::vector<std::int64_t>> categories(dataset.images.size());
  for (std::size_t i = 0; i < dataset.annotations.size(); ++i) {
    const lvis::Annotation& annotation = dataset.annotations[i];
    if (!class_of.contains(annotation.category_id))
      fail(ErrorKind::Data, {"the training data do not fit the categories",
                             cat("annotation ", annotation.id, ", category id ", annotation.category_id),
                             "the categories file has no such id", "name the categories file of this data set"});
    const std::size_t image = dataset.image_index.at(annotation.image_id);
    categories[image].push_back(annotation.category_id);
    if (!annotation.is_crowd) of_image[image].push_back(static_cast<std::uint32_t>(i));
  }
  std::vector<std::vector<std::int64_t>> used_categories;
  std::size_t bytes = 0;
  for (std::size_t image = 0; image < of_image.size(); ++image) {
    if (of_image[image].empty()) continue;
    used.push_back(static_cast<std::uint32_t>(image));
    annotations.push_back(std::move(of_image[image]));
    used_categories.push_back(std::move(categories[image]));
    bytes += static_cast<std::size_t>(dataset.images[image].height) *
             static_cast<std::size_t>(dataset.images[image].width) * 3;
  }
  if (used.empty())
    fail(ErrorKind::Data, {"there is nothing to train on", images.string(), "no image has an annotation",
                           "check the training annotations of [data]"});
  stream = std::make_unique<RepeatFactorStream>(repeat_factors(used_categories, repeat_threshold), seed);
  if (bytes <= kImageBytes) pictures = std::make_unique<PictureCache>(kImageBytes);
}

PictureCache::Picture SampleMaker::State::read(std::size_t index) {
  if (unreadable.contains(index)) return nullptr;  // once is enough, and keeps later samples the same
  const lvis::ImageRecord& record = dataset.images[used[index]];
  image::Decoded decoded;
  try {
    decoded = image::decode(read_file(images / record.file), image::Channels::Rgb, true);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Io) throw;
    decoded.problem = error.what();
  }
  if (decoded.image && (decoded.image->height != record.height || decoded.image->width != record.width)) {
    decoded.problem = cat("it has ", decoded.image->width, "x", decoded.image->height, " pixels, the annotations say ",
                          record.width, "x", record.height);
    decoded.image.reset();
  }
  if (decoded.image) return std::make_shared<const image::Image>(std::move(*decoded.image));
  unreadable.add(index, (images / record.file).string(), decoded.problem);
  return nullptr;
}

PictureCache::Picture SampleMaker::State::picture(std::size_t index) {
  return pictures != nullptr ? pictures->get(index, [&] { return read(index); }) : read(index);
}

Sample SampleMaker::State::make(std::uint64_t position) {
  const auto epoch = stream->epoch_of(position);
  const std::size_t place = position - epoch->first, size = epoch->order.size();
  std::size_t index = 0;
  PictureCache::Picture source;
  for (std::size_t step = 0; step < size && source == nullptr; ++step) {
    index = epoch->order[(place + step) % size];
    source = picture(index);
  }
  if (source == nullptr)
    fail(ErrorKind::Data, {"there is nothing to train on", images.string(), "not one image of an epoch can be read",
                           "check that [data] train_images names the folder of the images"});
  RandomDraws draws(derive_seed(seed, "sample", {position}));
  Sample sample;
  sample.image_id = dataset.images[used[index]].id;
  sample.position = position;
  const ResizeCrop transform = draw_resize_crop(source->height, source->width, resize, draws);
  sample.rgb = apply(transform, *source);
  for (const std::uint32_t i : annotations[index]) {
    const lvis::Annotation& annotation = dataset.annotations[i];
    if (auto object = apply_to_annotation(transform, annotation, class_of.at(annotation.category_id)))
      sample.objects.push_back(std::move(*object));
  }
  if (pool != nullptr) paste_instances(sample, *pool, statistics_of_class, paste, draws);
  return sample;
}

SampleMaker::SampleMaker(const lvis::Dataset& dataset, Path images, const ClassMap& class_of,
                         AreaStatistics area_statistics, const config::AugmentSettings& settings,
                         std::shared_ptr<const InstancePool> pool, std::uint64_t seed)
    : state_(new State{dataset, std::move(images), class_of.class_of}) {
  check_settings(settings);
  State& s = *state_;
  s.seed = seed;
  s.resize = {static_cast<int>(settings.train_size), settings.scale_low, settings.scale_high, settings.flip};
  s.paste.max_instances = settings.max_instances;
  s.paste.blend = settings.blend;
  s.paste.random_scale_low = settings.random_scale_low;
  s.paste.random_scale_high = settings.random_scale_high;
  s.paste.random_scale_min_size = settings.random_scale_min_size;
  for (const auto& [category, statistics] : area_statistics)
    if (const auto found = class_of.class_of.find(category); found != class_of.class_of.end())
      s.statistics_of_class[found->second] = statistics;
  s.index_annotations(settings.repeat_threshold);
  if (pool != nullptr) s.pool = std::make_unique<PoolSource>(std::move(pool));
}

Sample SampleMaker::make(std::uint64_t position) const { return state_->make(position); }
std::set<std::size_t> SampleMaker::unreadable_images() const { return state_->unreadable.keys(); }
std::set<std::size_t> SampleMaker::unreadable_instances() const {
  return state_->pool != nullptr ? state_->pool->unreadable() : std::set<std::size_t>{};
}

}  // namespace divergen::stages
