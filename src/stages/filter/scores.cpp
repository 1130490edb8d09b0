#include "stages/filter/scores.hpp"

#include "base/hash.hpp"
#include "base/log.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/filter/similarity.hpp"
#include "stages/filter/verdict.hpp"

namespace divergen::stages {
namespace {

constexpr std::uint8_t kScoreBackground = 1;

/// Replaces the pixels of which `is_background` holds of the mask's value.
template <class Test>
image::Image fill_background(image::Image picture, const image::Image& mask, std::uint8_t value,
                             const Test& is_background) {
  DIVERGEN_CHECK(mask.channels == 1 && mask.height == picture.height && mask.width == picture.width);
  const auto channels = static_cast<std::size_t>(picture.channels);
  for (std::size_t i = 0; i < mask.pixels.size(); ++i)
    if (is_background(mask.pixels[i]))
      std::fill_n(picture.pixels.begin() + static_cast<std::ptrdiff_t>(i * channels), channels, value);
  return picture;
}

/// Pictures of some rows, whose features are made when a batch is full.
class Queue {
 public:
  using Take = std::function<void(std::size_t row, std::span<const float> features)>;
  Queue(const ClipScorer& scorer, Take take) : scorer_(scorer), take_(std::move(take)) {}

  void add(std::size_t row, image::Image picture) {
    rows_.push_back(row);
    pictures_.push_back(std::move(picture));
    if (pictures_.size() == scorer_.batch()) flush();
  }
  void flush() {
    const auto features = scorer_.image_features(pictures_);
    for (std::size_t i = 0; i < rows_.size(); ++i) take_(rows_[i], features[i]);
    rows_.clear();
    pictures_.clear();
  }

 private:
  const ClipScorer& scorer_;
  Take take_;
  std::vector<std::size_t> rows_;
  std::vector<image::Image> pictures_;
};

struct Cutout {
  image::Image picture, mask;
};

/// Nothing, with a line in the log, when picture or mask cannot be used.
std::optional<Cutout> read_row(const store::Table& pictures, const store::Table& masks, std::size_t row) {
  image::Decoded picture = image::decode(pictures.heap(row));
  image::Decoded mask = image::decode(masks.heap(row), image::Channels::Grey);
  std::string problem;
  if (!picture.image) {
    problem = cat("its picture cannot be read: ", picture.problem);
  } else if (!mask.image) {
    problem = cat("its mask cannot be read: ", mask.problem);
  } else if (picture.image->height != mask.image->height || picture.image->width != mask.image->width) {
    problem = "picture and mask differ in size";
  } else {
    return Cutout{std::move(*picture.image), std::move(*mask.image)};
  }
  log::warn("filter: item ", to_hex(pictures.get<std::uint64_t>("item_id")[row]), " is left out: ", problem);
  return std::nullopt;
}

}  // namespace

image::Image on_black(const image::Image& picture, const image::Image& mask) {
  return fill_background(picture, mask, 0, [](std::uint8_t m) { return m == 0; });
}
image::Image on_ones(const image::Image& picture, const image::Image& mask) {
  return fill_background(picture, mask, kScoreBackground, [](std::uint8_t m) { return m <= kMaskThreshold; });
}

store::Table make_scores(const store::Table& pictures, const store::Table& masks, const Reference& reference,
                         const std::map<std::int32_t, std::string>& names, ClipScorer& scorer) {
  const auto& ids = pictures.get<std::uint64_t>("item_id");
  const auto& categories = pictures.get<std::int32_t>("category");
  if (ids != masks.get<std::uint64_t>("item_id"))
    fail(ErrorKind::Data, {"pictures and masks of a shard are not of the same items", "column item_id",
                           "they were made for different plans", "run `divergen annotate` again"});
  const std::size_t rows = pictures.rows();
  std::vector<std::uint8_t> readable(rows, 0);
  std::vector<std::int32_t> crops(rows, 0);
  std::vector<float> similarity(rows, kNoSimilarity), clip_score(rows, 0), area_share(rows, 0);

  Queue similar(scorer, [&](std::size_t row, std::span<const float> features) {
    similarity[row] = static_cast<float>(dot(features, reference.find(categories[row])->mean));
  });
  Queue scored(scorer, [&](std::size_t row, std::span<const float> features) {
    clip_score[row] = scorer.logit(features, names.at(categories[row]));
  });
  for (std::size_t row = 0; row < rows; ++row) {
    const auto cutout = read_row(pictures, masks, row);
    if (!cutout) continue;
    readable[row] = 1;
    area_share[row] = static_cast<float>(static_cast<double>(mask_area(cutout->mask)) /
                                         static_cast<double>(cutout->mask.pixels.size()));
    if (const Reference::Entry* entry = reference.find(categories[row])) {
      crops[row] = static_cast<std::int32_t>(entry->crops);
      similar.add(row, on_black(cutout->picture, cutout->mask));
    }
    scored.add(row, on_ones(cutout->picture, cutout->mask));
  }
  similar.flush();
  scored.flush();

  store::Table table(kScoresFormat, kScoresVersion);
  table.add("item_id", ids);
  table.add("category", categories);
  table.add("readable", std::move(readable));
  table.add("crops", std::move(crops));
  table.add("similarity", std::move(similarity));
  table.add("clip_score", std::move(clip_score));
  table.add("area_share", std::move(area_share));
  return table;
}

}  // namespace divergen::stages
