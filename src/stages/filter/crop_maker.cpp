#include "stages/filter/crop_maker.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace divergen::stages {
namespace {

/// The smallest box around both.
CropBox around(const CropBox& a, const CropBox& b) {
  const int x = std::min(a.x, b.x), y = std::min(a.y, b.y);
  return {x, y, std::max(a.x + a.width, b.x + b.width) - x, std::max(a.y + a.height, b.y + b.height) - y};
}

}  // namespace

CropMaker::CropMaker(const lvis::Dataset& dataset, Path pictures, const config::FilterSettings& settings)
    : dataset_(dataset),
      pictures_(std::move(pictures)),
      is_square_(settings.crop_shape == "square"),
      padding_(is_square_ ? 0 : settings.crop_padding),
      fill_(crop_fill_of(settings.crop_fill)) {}

std::optional<image::Image> CropMaker::make(std::span<const CropPlace> places, std::size_t i,
                                            std::map<std::string, std::int64_t>& rejected) {
  DIVERGEN_CHECK(i < places.size(), i, " of ", places.size());
  const auto is_it = [&](const Cut& one) { return one.annotation == places[i].annotation; };
  auto cut = std::find_if(cuts_.begin(), cuts_.end(), is_it);
  if (cut == cuts_.end()) {
    read(places, i);
    cut = cuts_.begin();
  }
  if (!cut->box) {
    ++rejected[kEmptyMask];
    return std::nullopt;
  }
  if (!part_) {
    ++rejected[kUnreadablePicture];
    return std::nullopt;
  }
  return filled_crop(*part_, at_, cut->mask, *cut->box, fill_);
}

CropMaker::Cut CropMaker::cut_of(const CropPlace& place) const {
  Cut cut{place.annotation, dataset_.mask_of(place.annotation), std::nullopt};
  cut.box = crop_box(cut.mask, padding_);
  if (cut.box && is_square_) cut.box = square_box(*cut.box);
  return cut;
}

void CropMaker::read(std::span<const CropPlace> places, std::size_t first) {
  const lvis::ImageRecord& record = dataset_.images[places[first].image];
  cuts_.clear();
  part_.reset();
  std::optional<CropBox> needed;
  for (std::size_t i = first; i < places.size() && places[i].image == places[first].image; ++i) {
    cuts_.push_back(cut_of(places[i]));
    if (!cuts_.back().box) continue;
    const CropBox box = needed_for_crop(*cuts_.back().box, record.height, record.width);
    needed = needed ? around(*needed, box) : box;
  }
  if (!needed) return;
  at_ = *needed;
  const Path file = pictures_ / record.file;
  std::string problem;
  try {
    image::Decoded decoded = image::decode_region(read_file(file), record.height, record.width, at_);
    problem = decoded.problem;
    part_ = std::move(decoded.image);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Io) throw;
    problem = error.text().why;
  }
  if (!part_) log::warn("filter: crops of ", file.string(), " are left out: ", problem);
}

}  // namespace divergen::stages
