#include "stages/augment/sample_maker.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <numeric>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "stages/augment/paste.hpp"
#include "stages/augment/picture_sources.hpp"
#include "stages/augment/repeat_factor.hpp"
#include "stages/augment/resize_crop.hpp"
#include "stages/augment/self_copy.hpp"

namespace divergen::stages {
namespace {

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

SelfCopyUse self_copy_of(const config::TrainSettings& training) {
  const auto mode = training.self_copy == "also"      ? SelfCopyUse::Mode::Also
                    : training.self_copy == "instead" ? SelfCopyUse::Mode::Instead
                                                      : SelfCopyUse::Mode::Off;
  return {mode, training.self_copy_chance};
}

struct SampleMaker::State {
  const lvis::Dataset& dataset;
  std::map<std::int64_t, std::int64_t> class_of;
  AreaStatistics statistics_of_class;
  ResizeCropRules resize, source_resize;  // of the image, of images that a self-copy takes objects from
  PasteRules paste;
  SelfCopyRules self_copy;
  SelfCopyUse use;
  std::int64_t self_copy_sources = 1;
  std::uint64_t seed = 0;
  bool polygons = false;

  std::vector<std::uint32_t> used;                      // indices into dataset.images
  std::vector<std::array<std::int32_t, 2>> sizes;       // height and width of each of them
  std::vector<std::vector<std::uint32_t>> annotations;  // of each used image, crowds left out
  std::unique_ptr<RepeatFactorStream> stream;
  std::vector<double> source_weights;  // running sums of repeat factors; empty: sources are drawn all alike
  std::unique_ptr<ImageSource> images;
  std::unique_ptr<PoolSource> pool;
  mutable LapTotals laps;

  std::vector<std::vector<std::int64_t>> index_annotations();
  std::size_t image_at(std::uint64_t position, std::size_t step) const;
  Sample cropped(std::size_t index, const image::Image& picture, const ResizeCropRules& rules, Draws& draws,
                 StageClock& clock) const;
  Sample copy_source(Draws& draws, StageClock& clock) const;
  Sample make(std::uint64_t position) const;
};

/// Categories of each used image's annotations, crowds' too, as the reference's sampler counts them.
std::vector<std::vector<std::int64_t>> SampleMaker::State::index_annotations() {
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
    if (polygons && !annotation.is_crowd && !annotation.rle.counts.empty())
      fail(ErrorKind::Data,
           {"the training data do not fit mask_format = \"polygon\"", cat("annotation ", annotation.id),
            "its mask is given as run lengths", "use mask_format = \"bitmask\""});
    if (!annotation.is_crowd) of_image[image].push_back(static_cast<std::uint32_t>(i));
  }
  std::vector<std::vector<std::int64_t>> used_categories;
  for (std::size_t image = 0; image < of_image.size(); ++image) {
    if (of_image[image].empty()) continue;
    used.push_back(static_cast<std::uint32_t>(image));
    sizes.push_back({dataset.images[image].height, dataset.images[image].width});
    annotations.push_back(std::move(of_image[image]));
    used_categories.push_back(std::move(categories[image]));
  }
  return used_categories;
}

/// The image (index into `used`) of a position, or the one `step` places after it in the stream's epoch.
std::size_t SampleMaker::State::image_at(std::uint64_t position, std::size_t step) const {
  const auto epoch = stream->epoch_of(position);
  return epoch->order[(position - epoch->first + step) % epoch->order.size()];
}

/// An image after resize-crop and flip, with what is left of its objects.
Sample SampleMaker::State::cropped(std::size_t index, const image::Image& picture, const ResizeCropRules& rules,
                                   Draws& draws, StageClock& clock) const {
  Sample out;
  out.image_id = dataset.images[used[index]].id;
  const ResizeCrop transform = draw_resize_crop(picture.height, picture.width, rules, draws);
  out.rgb = apply(transform, picture);
  clock.lap(Lap::Resize);
  for (const std::uint32_t i : annotations[index]) {
    const lvis::Annotation& annotation = dataset.annotations[i];
    const std::int64_t cls = class_of.at(annotation.category_id);
    auto object =
        polygons ? apply_to_polygons(transform, annotation, cls) : apply_to_annotation(transform, annotation, cls);
    if (object) out.objects.push_back(std::move(*object));
  }
  clock.lap(Lap::Annotations);
  return out;
}

/// An image that a self-copy takes objects from. One that cannot be read is replaced by the next of the data set.
Sample SampleMaker::State::copy_source(Draws& draws, StageClock& clock) const {
  std::size_t index = 0;
  if (source_weights.empty()) {
    index = static_cast<std::size_t>(draws.integer("source_image_index", 0, static_cast<double>(used.size())));
  } else {
    const double at = draws.uniform("source_image_weight", 0, source_weights.back());
    index = static_cast<std::size_t>(std::upper_bound(source_weights.begin(), source_weights.end(), at) -
                                     source_weights.begin());
    index = std::min(index, used.size() - 1);
  }
  PictureCache::Picture picture;
  for (std::size_t step = 0; step < used.size() && picture == nullptr; ++step) {
    if (step > 0) index = (index + 1) % used.size();
    picture = images->picture(used[index]);
  }
  clock.lap(Lap::Picture);
  if (picture == nullptr) return {};
  return cropped(index, *picture, source_resize, draws, clock);
}

Sample SampleMaker::State::make(std::uint64_t position) const {
  StageClock clock(laps);
  std::size_t index = 0;
  PictureCache::Picture picture;
  const std::size_t size = stream->epoch_of(position)->order.size();
  for (std::size_t step = 0; step < size && picture == nullptr; ++step) {
    index = image_at(position, step);
    picture = images->picture(used[index]);
  }
  if (picture == nullptr)
    fail(ErrorKind::Data,
         {"there is nothing to train on", images->folder().string(), "not one image of an epoch can be read",
          "check that [data] train_images names the folder of the images"});
  clock.lap(Lap::Picture);
  RandomDraws draws(derive_seed(seed, "sample", {position}));
  Sample sample = cropped(index, *picture, resize, draws, clock);
  sample.position = position;
  // Draws of their own, so that crops and pastes are the same with self-copy and without.
  RandomDraws copy_draws(derive_seed(seed, "self-copy", {position}));
  const bool copies = use.mode != SelfCopyUse::Mode::Off && copy_draws.uniform("self_copy", 0, 1) < use.chance;
  if (pool != nullptr && !(copies && use.mode == SelfCopyUse::Mode::Instead))
    paste_instances(sample, *pool, statistics_of_class, paste, draws, clock);
  if (copies) {
    std::vector<Sample> sources;
    for (std::int64_t i = 0; i < self_copy_sources; ++i) sources.push_back(copy_source(copy_draws, clock));
    stages::self_copy(sample, std::move(sources), self_copy, copy_draws);
    clock.lap(Lap::SelfCopy);
  }
  return sample;
}

SampleMaker::SampleMaker(const lvis::Dataset& dataset, Path images, const ClassMap& class_of,
                         AreaStatistics area_statistics, const config::AugmentSettings& settings,
                         std::shared_ptr<const InstancePool> pool, std::uint64_t seed, SelfCopyUse self_copy,
                         bool polygons)
    : state_(new State{dataset, class_of.class_of}) {
  check_settings(settings);
  DIVERGEN_CHECK(!polygons || (pool == nullptr && self_copy.mode == SelfCopyUse::Mode::Off),
                 "polygons cannot be pasted");
  constexpr std::size_t kMebi = std::size_t{1} << 20;
  State& s = *state_;
  s.seed = seed;
  s.use = self_copy;
  s.polygons = polygons;
  s.resize = {static_cast<int>(settings.train_size), settings.scale_low, settings.scale_high, settings.flip};
  s.source_resize = s.resize;
  if (settings.self_copy_scale_high > 0) {
    s.source_resize.scale_low = settings.self_copy_scale_low;
    s.source_resize.scale_high = settings.self_copy_scale_high;
  }
  s.self_copy_sources = settings.self_copy_sources;
  s.self_copy = {settings.self_copy_select, settings.self_copy_max_objects};
  s.paste.max_instances = settings.max_instances;
  s.paste.blend = settings.blend;
  s.paste.random_scale_low = settings.random_scale_low;
  s.paste.random_scale_high = settings.random_scale_high;
  s.paste.random_scale_min_size = settings.random_scale_min_size;
  s.paste.random_scale = settings.random_scale;
  s.paste.draw = instance_draw_of(settings.instance_draw);
  for (const auto& [category, statistics] : area_statistics)
    if (const auto found = class_of.class_of.find(category); found != class_of.class_of.end())
      s.statistics_of_class[found->second] = statistics;
  const auto categories = s.index_annotations();
  if (s.used.empty())
    fail(ErrorKind::Data, {"there is nothing to train on", images.string(), "no image has an annotation",
                           "check the training annotations of [data]"});
  std::vector<float> factors = repeat_factors(categories, settings.repeat_threshold);
  if (settings.self_copy_by_repeat_factor)
    std::partial_sum(factors.begin(), factors.end(), std::back_inserter(s.source_weights), std::plus<double>());
  s.stream = std::make_unique<RepeatFactorStream>(std::move(factors), seed);
  s.images = std::make_unique<ImageSource>(dataset, std::move(images), s.used,
                                           static_cast<std::size_t>(settings.image_cache_mb) * kMebi);
  if (pool != nullptr)
    s.pool =
        std::make_unique<PoolSource>(std::move(pool), static_cast<std::size_t>(settings.instance_cache_mb) * kMebi);
}

Sample SampleMaker::make(std::uint64_t position) const { return state_->make(position); }

bool SampleMaker::is_wide(std::uint64_t position) const {
  const State& s = *state_;
  const auto [height, width] = s.sizes[s.image_at(position, 0)];
  RandomDraws draws(derive_seed(s.seed, "sample", {position}));
  const ResizeCrop transform = draw_resize_crop(height, width, s.resize, draws);
  return transform.width > transform.height;
}

std::array<double, kLapNames.size()> SampleMaker::lap_seconds() const { return state_->laps.seconds(); }
std::set<std::size_t> SampleMaker::unreadable_images() const { return state_->images->unreadable(); }
std::set<std::size_t> SampleMaker::unreadable_instances() const {
  return state_->pool != nullptr ? state_->pool->unreadable() : std::set<std::size_t>{};
}

}  // namespace divergen::stages
