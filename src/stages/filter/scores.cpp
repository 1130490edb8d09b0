#include "stages/filter/scores.hpp"

#include <set>

#include "base/hash.hpp"
#include "base/log.hpp"
#include "stages/annotate/annotate.hpp"
#include "stages/common/sharded.hpp"
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
                         const std::map<std::int32_t, std::string>& names, ClipScorer& scorer,
                         const ShardRequest& request) {
  const auto& ids = pictures.get<std::uint64_t>("item_id");
  const auto& categories = pictures.get<std::int32_t>("category");
  if (ids != masks.get<std::uint64_t>("item_id"))
    fail(ErrorKind::Data, {"pictures and masks of a shard are not of the same items", "column item_id",
                           "they were made for different plans", "run `divergen annotate` again"});
  const std::size_t rows = pictures.rows();
  std::vector<std::uint8_t> readable(rows, 0);
  std::vector<std::int32_t> crops(rows, 0);
  std::vector<float> similarity(rows, kNoSimilarity), clip_score(rows, 0), area_share(rows, 0);

  using Features = std::vector<float>;
  using Batch = FixedBatch<image::Image, Features>;
  const Batch::Compute compute = [&](const std::vector<image::Image>& some) { return scorer.image_features(some); };
  std::set<std::size_t> failed;
  const Batch::Fail fail_row = [&](std::size_t row, const char* why) {
    readable[row] = 0;
    failed.insert(row);
    log::warn("filter: item ", to_hex(ids[row]), " cannot be scored: ", why);
  };
  Batch similar(
      scorer.batch(), request.isolate, compute,
      [&](std::size_t row, Features&& features) {
        similarity[row] = static_cast<float>(dot(features, reference.find(categories[row])->mean));
      },
      fail_row);
  Batch scored(
      scorer.batch(), request.isolate, compute,
      [&](std::size_t row, Features&& features) {
        clip_score[row] = scorer.logit(features, names.at(categories[row]));
      },
      fail_row);
  for (std::size_t row = 0; row < rows; ++row) {
    const Reference::Entry* entry = reference.find(categories[row]);
    if (!request.wants(row)) {
      if (request.kept->rows.get<std::uint8_t>("readable")[request.kept_row(row)] == 0) continue;
      if (entry != nullptr) similar.skip(row);
      scored.skip(row);
      continue;
    }
    const auto cutout = read_row(pictures, masks, row);
    if (!cutout) continue;
    readable[row] = 1;
    area_share[row] = static_cast<float>(static_cast<double>(mask_area(cutout->mask)) /
                                         static_cast<double>(cutout->mask.pixels.size()));
    if (entry != nullptr) {
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
  if (!failed.empty()) set_rejected(table, {{kFailed, static_cast<std::int64_t>(failed.size())}});
  return table;
}

}  // namespace divergen::stages
