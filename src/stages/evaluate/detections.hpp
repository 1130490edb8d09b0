#pragma once
// Detections between the detector and the evaluator: conversion, and the part files that make an evaluation resumable.
//
//   evaluate/<name>/parts/part-00000012.h5   table "divergen-detections": image_id, category_id, score, x, y, width,
//                                            height; heap: the mask as COCO's compressed text; document "images": ids
//                                            of the images that it covers, those without detections too, and
//                                            "rejected": reason -> ids

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lvis/evaluator.hpp"
#include "models/detector/centernet2.hpp"
#include "stages/augment/types.hpp"

namespace divergen::stages {

/// Run lengths of a full-size mask (row-major bytes, nonzero is inside) that is empty outside columns [x0, x1) and rows
/// [y0, y1), of which alone it is read.
mask::Rle encode_in_box(const std::uint8_t* bitmap, std::int64_t height, std::int64_t width, std::int64_t x0,
                        std::int64_t y0, std::int64_t x1, std::int64_t y1);

/// In the detector's order (by descending score). `box` is the detector's, in float32 arithmetic as detectron2 writes
/// it; `area` is the mask's.
std::vector<lvis::Detection> to_lvis(const models::Detections& detections, std::int64_t image_id,
                                     const ClassMap& classes);

/// Detections of whole images, to be committed together.
struct DetectionPart {
  std::vector<std::int64_t> images;
  std::map<std::string, std::vector<std::int64_t>> rejected;  // reason -> images, which are in `images` too
  std::vector<lvis::Detection> detections;
  bool empty() const { return images.empty(); }
};

/// Whole or not at all. Throws Error(NoSpace | Io).
void write_part(const Path& file, const DetectionPart& part, const lvis::Dataset& dataset,
                const std::string& fingerprint);
/// Throws Error(Data) when it is damaged or belongs to another evaluation.
DetectionPart read_part(const Path& file, const lvis::Dataset& dataset, const std::string& fingerprint);

}  // namespace divergen::stages
