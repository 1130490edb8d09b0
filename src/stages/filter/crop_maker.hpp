#pragma once
// From places in a data set to real crops: reads pictures, as little of each as its crops need.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "config/settings.hpp"
#include "stages/filter/real_crops.hpp"

namespace divergen::stages {

/// Why there is no crop, as it is counted.
inline constexpr const char *kUnreadablePicture = "unreadable_picture", *kEmptyMask = "empty_mask";

/// Not thread-safe. The data set must outlive it.
class CropMaker {
 public:
  /// `pictures`: the folder of the data set's files. Of the settings: crop_shape, crop_padding, crop_fill.
  CropMaker(const lvis::Dataset& dataset, Path pictures, const config::FilterSettings& settings);

  /// The crop at places[i]. Of a picture in which several places lie one after another, the part that all of them need
  /// is read once, at the first. Nothing when there is none: `rejected` then counts why.
  std::optional<image::Image> make(std::span<const CropPlace> places, std::size_t i,
                                   std::map<std::string, std::int64_t>& rejected);

 private:
  /// A place of the picture at hand.
  struct Cut {
    std::size_t annotation;
    mask::Rle mask;
    std::optional<CropBox> box;  // nothing: an empty mask
  };
  void read(std::span<const CropPlace> places, std::size_t first);
  Cut cut_of(const CropPlace& place) const;

  const lvis::Dataset& dataset_;
  Path pictures_;
  bool is_square_;
  std::int64_t padding_;
  CropFill fill_;
  std::vector<Cut> cuts_;  // of places that lie one after another in one picture
  CropBox at_;
  std::optional<image::Image> part_;  // of that picture
};

}  // namespace divergen::stages
