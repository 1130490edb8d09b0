#include "models/detector/mask_targets.hpp"

#include <ATen/ATen.h>

#include "base/error.hpp"
#include "models/detector/box_ops.hpp"
#include "nn/roi_align.hpp"

namespace divergen::models {

at::Tensor mask_targets(const DetectorTruth& truth, const at::Tensor& objects, const at::Tensor& boxes) {
  if (!truth.polygons.empty()) {
    std::vector<std::vector<std::vector<double>>> of_boxes;
    const at::Tensor rows = objects.cpu();
    for (std::int64_t i = 0; i < rows.numel(); ++i)
      of_boxes.push_back(truth.polygons.at(static_cast<std::size_t>(rows.const_data_ptr<std::int64_t>()[i])));
    return raster_polygons(of_boxes, boxes, kMaskSide).to(boxes.device());
  }
  DIVERGEN_CHECK(truth.masks.defined() && truth.masks.size(0) == truth.boxes.size(0), "a training image without masks");
  // As crop_masks, but each mask is read in place and not copied for each of its RoIs.
  const at::Tensor rois = at::cat({objects.unsqueeze(1).to(boxes.scalar_type()), boxes}, 1);
  const at::Tensor masks = truth.masks.to(boxes.device()).unsqueeze(1);
  return nn::roi_align(masks, rois, kMaskSide, /*scale=*/1.0, /*sampling_ratio=*/0).squeeze(1).ge(0.5);
}

}  // namespace divergen::models
