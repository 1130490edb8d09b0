#pragma once
// What travels between the augmentation and the trainer.

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "image/image.hpp"

namespace divergen::stages {

/// Category ids of a study and their 0-based classes: evaluated categories first, by id, then the extra ones, by id.
struct ClassMap {
  std::vector<std::int64_t> category_of;               // class -> category id
  std::map<std::int64_t, std::int64_t> class_of;       // category id -> class
  std::vector<std::string> names, frequencies;         // by class
  std::vector<double> image_counts;                    // by class, as the categories file says
  std::int64_t evaluated = 0;                          // classes [0, evaluated) are evaluated
};
/// From the categories file of [data]. Throws Error(Io | Data) (an empty file is an error).
ClassMap read_class_map(const Path& categories_json);

/// category id -> mean and deviation of sqrt(box area / image area) (area_mean_std2.json).
using AreaStatistics = std::map<std::int64_t, std::array<double, 2>>;
AreaStatistics read_area_statistics(const Path& json);

struct SampleObject {
  std::array<float, 4> box{};  // x0 y0 x1 y1
  std::int64_t cls = 0;        // 0-based class
  image::Image mask;           // 0 / 1, full canvas size, one channel
  std::int32_t source = 0;     // 0 real, 1 generated
};

/// One training sample.
struct Sample {
  std::int64_t image_id = 0;
  std::uint64_t position = 0;
  image::Image rgb;
  std::vector<SampleObject> objects;
};

}  // namespace divergen::stages
