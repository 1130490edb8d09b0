#pragma once
// The part files that make an evaluation resumable. No LibTorch.
//
//   evaluate/<name>/parts/part-00000012.h5   table "divergen-detections": image_id, category_id, score, x, y, width,
//                                            height; heap: the mask as COCO's compressed text; document "images": ids
//                                            of the images that it covers, those without detections too, and
//                                            "rejected": reason -> ids

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/fs.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::stages {

/// What a part file covers.
struct PartImages {
  std::vector<std::int64_t> images;
  std::map<std::string, std::vector<std::int64_t>> rejected;  // reason -> images, which are in `images` too
};

/// Detections of whole images, to be committed together.
struct DetectionPart : PartImages {
  std::vector<lvis::Detection> detections;
  bool empty() const { return images.empty(); }
};

/// Whole or not at all. Throws Error(NoSpace | Io).
void write_part(const Path& file, const DetectionPart& part, const lvis::Dataset& dataset,
                const std::string& fingerprint);
/// Throws Error(Data) when it is damaged or belongs to another evaluation.
DetectionPart read_part(const Path& file, const lvis::Dataset& dataset, const std::string& fingerprint);
/// The same without the detections, which are not looked at.
PartImages read_part_images(const Path& file, const std::string& fingerprint);

}  // namespace divergen::stages
