#include "models/detector/box_ops.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "mask/rle.hpp"
#include "nn/nms.hpp"
#include "nn/roi_align.hpp"

namespace divergen::models {
namespace {

struct Centred {
  at::Tensor width, height, x, y;  // centre
  explicit Centred(const at::Tensor& boxes) {
    width = boxes.select(1, 2) - boxes.select(1, 0);
    height = boxes.select(1, 3) - boxes.select(1, 1);
    x = boxes.select(1, 0) + 0.5 * width;
    y = boxes.select(1, 1) + 0.5 * height;
  }
};

}  // namespace

at::Tensor BoxTransform::deltas(const at::Tensor& from, const at::Tensor& to) const {
  const Centred a(from), b(to);
  return at::stack({weights[0] * (b.x - a.x) / a.width, weights[1] * (b.y - a.y) / a.height,
                    weights[2] * (b.width / a.width).log(), weights[3] * (b.height / a.height).log()},
                   1);
}

at::Tensor BoxTransform::apply(const at::Tensor& deltas, const at::Tensor& boxes) const {
  static const double kMostLog = std::log(1000.0 / 16.0);
  const at::Tensor given = deltas.to(at::kFloat);
  const Centred a(boxes.to(at::kFloat));
  const at::Tensor x = given.select(1, 0) / weights[0] * a.width + a.x;
  const at::Tensor y = given.select(1, 1) / weights[1] * a.height + a.y;
  const at::Tensor width = (given.select(1, 2) / weights[2]).clamp_max(kMostLog).exp() * a.width;
  const at::Tensor height = (given.select(1, 3) / weights[3]).clamp_max(kMostLog).exp() * a.height;
  return at::stack({x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height}, 1);
}

at::Tensor box_areas(const at::Tensor& boxes) {
  return (boxes.select(1, 2) - boxes.select(1, 0)) * (boxes.select(1, 3) - boxes.select(1, 1));
}

at::Tensor box_iou(const at::Tensor& a, const at::Tensor& b) {
  const auto overlap_along = [&](std::int64_t axis) {
    return (at::minimum(a.select(1, axis + 2).unsqueeze(1), b.select(1, axis + 2)) -
            at::maximum(a.select(1, axis).unsqueeze(1), b.select(1, axis)))
        .clamp_min_(0);
  };
  const at::Tensor overlap = overlap_along(0).mul_(overlap_along(1));
  const at::Tensor all = (box_areas(a).unsqueeze(1) + box_areas(b)).sub_(overlap);
  return at::where(overlap.gt(0), overlap / all, overlap.new_zeros({}));
}

at::Tensor clip_boxes(const at::Tensor& boxes, std::int64_t height, std::int64_t width) {
  const at::Tensor x = boxes.slice(1, 0, 4, 2).clamp(0, width), y = boxes.slice(1, 1, 4, 2).clamp(0, height);
  return at::stack({x, y}, 2).flatten(1);
}

at::Tensor nonempty_boxes(const at::Tensor& boxes) {
  return (boxes.select(1, 2) - boxes.select(1, 0)).gt(0).logical_and((boxes.select(1, 3) - boxes.select(1, 1)).gt(0));
}

Match match(const at::Tensor& iou, double threshold) {
  DIVERGEN_CHECK(iou.dim() == 2, iou.sizes());
  if (iou.numel() == 0)
    return {at::zeros({iou.size(1)}, iou.options().dtype(at::kLong)),
            at::zeros({iou.size(1)}, iou.options().dtype(at::kChar))};
  const auto [best, index] = iou.max(0);
  return {index, best.ge(threshold).to(at::kChar)};
}

std::pair<at::Tensor, at::Tensor> subsample_labels(const at::Tensor& classes, std::int64_t count, double foreground,
                                                   std::int64_t background_class, at::Generator& generator) {
  const at::Tensor positive = classes.ne(-1).logical_and(classes.ne(background_class)).nonzero().squeeze(1);
  const at::Tensor negative = classes.eq(background_class).nonzero().squeeze(1);
  const auto most = static_cast<std::int64_t>(static_cast<double>(count) * foreground);
  const std::int64_t positives = std::min(positive.size(0), most);
  const std::int64_t negatives = std::min(negative.size(0), count - positives);
  const auto draw = [&](const at::Tensor& from, std::int64_t number) {
    const at::Tensor order = at::randperm(from.size(0), generator, at::dtype(at::kLong).device(generator.device()));
    return from.index_select(0, order.narrow(0, 0, number).to(from.device()));
  };
  at::Tensor drawn = draw(positive, positives);
  return {std::move(drawn), draw(negative, negatives)};
}

at::Tensor assign_levels(const at::Tensor& boxes, std::int64_t lowest, std::int64_t highest) {
  return (4 + (box_areas(boxes).sqrt() / 224 + 1e-8).log2()).floor().clamp(lowest, highest).to(at::kLong);
}

at::Tensor pool_rois(std::span<const at::Tensor> features, const at::Tensor& rois, std::int64_t pooled,
                     std::int64_t lowest) {
  DIVERGEN_CHECK(!features.empty());
  const auto highest = lowest + static_cast<std::int64_t>(features.size()) - 1;
  const at::Tensor level_of = assign_levels(rois.narrow(1, 1, 4), lowest, highest);
  at::Tensor out = features[0].new_zeros({rois.size(0), features[0].size(1), pooled, pooled});
  for (std::int64_t level = lowest; level <= highest; ++level) {
    const at::Tensor some = level_of.eq(level).nonzero().squeeze(1);
    const double scale = 1.0 / static_cast<double>(std::int64_t{1} << level);
    const at::Tensor& map = features[static_cast<std::size_t>(level - lowest)];
    // Also with no RoI, so that every level has a gradient (of zeros), as in the reference.
    out = out.index_copy(0, some, nn::roi_align(map, rois.index_select(0, some), pooled, scale, 0));
  }
  return out;
}

ScoredBoxes select_detections(const at::Tensor& boxes, const at::Tensor& scores, std::array<std::int64_t, 2> image_size,
                              double score_threshold, double nms_threshold, std::int64_t limit) {
  const at::Tensor finite = boxes.isfinite().all(1).logical_and(scores.isfinite().all(1)).nonzero().squeeze(1);
  const at::Tensor cut = clip_boxes(boxes.index_select(0, finite), image_size[0], image_size[1]);
  const at::Tensor table = scores.index_select(0, finite).narrow(1, 0, scores.size(1) - 1);
  const at::Tensor passing = table.gt(score_threshold).nonzero();
  const at::Tensor row = passing.select(1, 0), cls = passing.select(1, 1);
  const at::Tensor candidates = cut.index_select(0, row);
  const at::Tensor candidate_scores = table.contiguous().view(-1).index_select(0, row * table.size(1) + cls);
  at::Tensor keep = nn::batched_nms(candidates, candidate_scores, cls, nms_threshold);
  if (limit >= 0) keep = keep.narrow(0, 0, std::min(limit, keep.size(0)));
  return {candidates.index_select(0, keep), candidate_scores.index_select(0, keep), cls.index_select(0, keep),
          row.index_select(0, keep)};
}

at::Tensor rescale_boxes(const at::Tensor& boxes, std::array<std::int64_t, 2> from, std::array<std::int64_t, 2> to) {
  const double x = static_cast<double>(to[1]) / static_cast<double>(from[1]);
  const double y = static_cast<double>(to[0]) / static_cast<double>(from[0]);
  const at::Tensor scaled = at::stack({boxes.slice(1, 0, 4, 2) * x, boxes.slice(1, 1, 4, 2) * y}, 2).flatten(1);
  return clip_boxes(scaled, to[0], to[1]);
}

at::Tensor crop_masks(const at::Tensor& masks, const at::Tensor& boxes, std::int64_t side) {
  const std::int64_t n = boxes.size(0);
  DIVERGEN_CHECK(masks.dim() == 3 && masks.size(0) == n, masks.sizes(), boxes.sizes());
  if (n == 0) return at::zeros({0, side, side}, masks.options().dtype(at::kBool));
  const at::Tensor rois = at::cat({at::arange(n, boxes.options()).unsqueeze(1), boxes}, 1);
  return nn::roi_align(masks.unsqueeze(1), rois, side, 1.0, 0).squeeze(1).ge(0.5);
}

at::Tensor raster_polygons(std::span<const std::vector<std::vector<double>>> polygons, const at::Tensor& boxes,
                           std::int64_t side) {
  const at::Tensor held = boxes.to(at::kCPU, at::kFloat).contiguous();
  DIVERGEN_CHECK(held.size(0) == static_cast<std::int64_t>(polygons.size()), held.sizes(), " and ", polygons.size());
  at::Tensor out = at::zeros({held.size(0), side, side}, at::kBool);
  for (std::int64_t i = 0; i < held.size(0); ++i) {
    const float* box = held.const_data_ptr<float>() + i * 4;
    // float32 up to the ratio and float64 from there: what numpy makes of float32 boxes and float64 polygons.
    const float width = box[2] - box[0], height = box[3] - box[1];
    const double ratio_x = static_cast<double>(side) / std::max(static_cast<double>(width), 0.1);
    const double ratio_y = static_cast<double>(side) / std::max(static_cast<double>(height), 0.1);
    std::vector<std::vector<double>> parts = polygons[static_cast<std::size_t>(i)];
    for (auto& part : parts)
      for (std::size_t k = 0; k + 1 < part.size(); k += 2) {
        part[k] = (part[k] - static_cast<double>(box[0])) * ratio_x;
        part[k + 1] = (part[k + 1] - static_cast<double>(box[1])) * ratio_y;
      }
    const std::vector<std::uint8_t> bits = mask::decode(mask::from_polygons(parts, side, side));
    std::copy(bits.begin(), bits.end(), out.mutable_data_ptr<bool>() + i * side * side);
  }
  return out;
}

}  // namespace divergen::models
