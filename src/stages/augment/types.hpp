#pragma once
// What travels between the augmentation and the trainer.

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "image/image.hpp"
#include "mask/rle.hpp"

namespace divergen::stages {

/// Category ids of a study and their 0-based classes: evaluated categories first, by id, then the extra ones, by id.
struct ClassMap {
  std::vector<std::int64_t> category_of;          // class -> category id
  std::map<std::int64_t, std::int64_t> class_of;  // category id -> class
  std::vector<std::string> names, frequencies;    // by class
  std::vector<double> image_counts;               // by class, as the categories file says
  std::int64_t evaluated = 0;                     // classes [0, evaluated) are evaluated
};
/// From the categories file of [data]: a JSON list of {id, name, frequency, image_count, role "eval" | "extra"}, of
/// which frequency, image_count and role may be absent ("", 0, "eval"). Throws Error(Io | Data) (an empty file is an
/// error).
ClassMap read_class_map(const Path& categories_json);

/// category id -> mean and deviation of sqrt(box area / image area) (area_mean_std2.json).
using AreaStatistics = std::map<std::int64_t, std::array<double, 2>>;
/// Throws Error(Io | Data).
AreaStatistics read_area_statistics(const Path& json);

/// A mask of a canvas of which only the tight box is stored: objects are small against the canvas, and everything that
/// is done to them (occlusion, boxes, areas) costs their own size, not the canvas's.
struct BoxMask {
  int x = 0, y = 0;   // of the top left pixel of `bits` on the canvas
  image::Image bits;  // 0 / 1, one channel; its box is tight; no pixels for an empty mask

  bool empty() const { return bits.empty(); }
  std::array<float, 4> box() const;  // x0 y0 x1 y1 (exclusive); zeros for an empty mask
  std::int64_t area() const;
  /// 0 / 1 over the whole canvas; what lies outside it is cut.
  image::Image on_canvas(int height, int width) const;
  bool operator==(const BoxMask&) const = default;
};

/// The nonzero pixels of `bitmap` (one channel), whose top left pixel lies at (x, y) of the canvas.
BoxMask box_mask(image::Image bitmap, int x = 0, int y = 0);
BoxMask box_mask(const mask::Rle& rle);

struct SampleObject {
  std::array<float, 4> box{};  // x0 y0 x1 y1; not always the mask's (reference/semantics.md §7.2)
  std::int64_t cls = 0;        // 0-based class
  BoxMask mask;
  std::int32_t source = 0;  // 0 real, 1 generated
  /// In place of the mask, where samples are made with polygons: parts of x0, y0, x1, y1, ... on the canvas and beyond.
  std::vector<std::vector<double>> polygons{};
};

/// One training sample.
struct Sample {
  std::int64_t image_id = 0;
  std::uint64_t position = 0;
  image::Image rgb;
  std::vector<SampleObject> objects;
};

}  // namespace divergen::stages
