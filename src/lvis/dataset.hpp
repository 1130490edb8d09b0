#pragma once
// An LVIS v1 (or COCO-style) annotation file in columns: numbers in flat arrays, polygons in one pool.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/fs.hpp"
#include "mask/rle.hpp"

namespace divergen::lvis {

struct Category {
  std::int64_t id = 0;
  std::string name, frequency;  // frequency "r", "c", "f", or empty where the file has none
  std::int64_t image_count = 0;
};

struct ImageRecord {
  std::int64_t id = 0;
  std::int32_t height = 0, width = 0;
  std::string file;  // the last two components of coco_url ("train2017/000000000009.jpg"), else file_name
  bool has_federated = false;
  std::vector<std::int64_t> negative, not_exhaustive;  // category ids
};

struct Annotation {
  std::int64_t id = 0, image_id = 0, category_id = 0;
  std::array<double, 4> box{};  // x, y, width, height
  double area = 0;
  bool is_crowd = false, ignore = false;
  std::vector<std::vector<double>> polygons;  // empty where the file has a run-length mask
  mask::Rle rle;                              // empty where the file has polygons
};

struct Dataset {
  std::vector<Category> categories;     // sorted by id
  std::vector<ImageRecord> images;      // in file order
  std::vector<Annotation> annotations;  // in file order
  std::unordered_map<std::int64_t, std::size_t> image_index, category_index;

  /// Mask of an annotation at its image's size.
  mask::Rle mask_of(const Annotation& annotation) const;
  void rebuild_indices();
};

/// Throws Error(Io), or Error(Data) naming file, annotation, and field.
Dataset read_dataset(const Path& file);
/// Writes an LVIS v1 file atomically.
void write_dataset(const Dataset& dataset, const Path& file);

}  // namespace divergen::lvis
