#include "nn/nms.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/error.hpp"

namespace divergen::nn {
namespace {

// Above this many boxes the matrix of nms_composed (n² bytes and temporaries of float) would take gigabytes.
constexpr std::int64_t kMostComposed = 16384;

at::Tensor descending(const at::Tensor& scores) {
  return std::get<1>(scores.sort(/*stable=*/true, /*dim=*/0, /*descending=*/true));
}

/// The largest float that is not above `threshold`: for a float x, x > threshold iff x > this.
float floor_to_float(double threshold) {
  const auto near = static_cast<float>(threshold);
  return static_cast<double>(near) > threshold ? std::nextafter(near, -std::numeric_limits<float>::infinity()) : near;
}

/// Boxes side by side by coordinate, in the order of their scores.
struct Columns {
  std::vector<float> x0, y0, x1, y1, area;
  explicit Columns(const at::Tensor& boxes) {
    const at::Tensor held = boxes.contiguous();
    const float* box = held.const_data_ptr<float>();
    for (std::int64_t i = 0; i < held.size(0); ++i, box += 4) {
      x0.push_back(box[0]);
      y0.push_back(box[1]);
      x1.push_back(box[2]);
      y1.push_back(box[3]);
      area.push_back((box[2] - box[0]) * (box[3] - box[1]));
    }
  }
};

// std::max and std::min as torchvision takes them: the first argument where the comparison is not true.
inline float larger(float a, float b) { return a < b ? b : a; }
inline float smaller(float a, float b) { return b < a ? b : a; }

/// Marks which of the kLanes boxes from `at` on box i suppresses. The trip count is a constant for the vectoriser.
constexpr std::size_t kLanes = 16;
inline void suppress(const Columns& boxes, std::size_t i, std::size_t at, float threshold, std::int32_t* gone) {
  const float x0 = boxes.x0[i], y0 = boxes.y0[i], x1 = boxes.x1[i], y1 = boxes.y1[i], area = boxes.area[i];
  const float *bx0 = boxes.x0.data() + at, *by0 = boxes.y0.data() + at, *bx1 = boxes.x1.data() + at,
              *by1 = boxes.y1.data() + at, *barea = boxes.area.data() + at;
  std::int32_t hit[kLanes];
  for (std::size_t k = 0; k < kLanes; ++k) {
    const float width = larger(0.0F, smaller(x1, bx1[k]) - larger(x0, bx0[k]));
    const float height = larger(0.0F, smaller(y1, by1[k]) - larger(y0, by0[k]));
    const float overlap = width * height;
    hit[k] = overlap / (area + barea[k] - overlap) > threshold ? 1 : 0;
  }
  for (std::size_t k = 0; k < kLanes; ++k) gone[at + k] |= hit[k];
}

at::Tensor nms_on_host(const at::Tensor& boxes, const at::Tensor& scores, double threshold) {
  const at::Tensor order = descending(scores);
  const auto n = static_cast<std::size_t>(order.size(0));
  Columns sorted(boxes.to(at::kFloat).index_select(0, order));
  // Padding is never looked at: it may be marked, and no box is kept there.
  for (auto* column : {&sorted.x0, &sorted.y0, &sorted.x1, &sorted.y1, &sorted.area}) column->resize(n + kLanes);
  std::vector<std::int32_t> gone(n + kLanes, 0);
  std::vector<std::int64_t> kept;
  const float limit = floor_to_float(threshold);
  const std::int64_t* index = order.const_data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < n; ++i) {
    if (gone[i] != 0) continue;
    kept.push_back(index[i]);
    for (std::size_t at = i + 1; at < n; at += kLanes) suppress(sorted, i, at, limit, gone.data());
  }
  at::Tensor out = at::empty({static_cast<std::int64_t>(kept.size())}, at::kLong);
  std::copy(kept.begin(), kept.end(), out.mutable_data_ptr<std::int64_t>());
  return out;
}

at::Tensor class_by_class(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& classes,
                          double threshold) {
  // A stable sort by class gives the boxes of each class in order of index, all classes at once.
  const auto [grouped, order] = classes.sort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor sizes = std::get<2>(at::unique_consecutive(grouped, false, true)).to(at::kCPU);
  at::Tensor keep = at::zeros({boxes.size(0)}, boxes.options().dtype(at::kBool));
  std::int64_t at = 0;
  for (std::int64_t g = 0; g < sizes.size(0); ++g) {
    const std::int64_t size = sizes.const_data_ptr<std::int64_t>()[g];
    const at::Tensor members = order.narrow(0, at, size);
    keep.index_fill_(
        0, members.index_select(0, nms(boxes.index_select(0, members), scores.index_select(0, members), threshold)),
        true);
    at += size;
  }
  const at::Tensor kept = keep.nonzero().squeeze(1);
  // Not the stable sort: the order of equal scores is that of the same call in torchvision.
  return kept.index_select(0, std::get<1>(scores.index_select(0, kept).sort(/*dim=*/0, /*descending=*/true)));
}

}  // namespace

at::Tensor nms_composed(const at::Tensor& boxes, const at::Tensor& scores, double threshold) {
  const at::Tensor order = descending(scores);
  if (order.size(0) == 0) return order;
  const at::Tensor sorted = boxes.to(at::kFloat).index_select(0, order);
  const at::Tensor low = sorted.narrow(1, 0, 2), high = sorted.narrow(1, 2, 2);
  const at::Tensor side = high - low, area = side.select(1, 0) * side.select(1, 1);
  const auto overlap_along = [&](std::int64_t axis) {
    return (at::minimum(high.select(1, axis).unsqueeze(1), high.select(1, axis)) -
            at::maximum(low.select(1, axis).unsqueeze(1), low.select(1, axis)))
        .clamp_min_(0);
  };
  const at::Tensor overlap = overlap_along(0).mul_(overlap_along(1));
  const at::Tensor all = (area.unsqueeze(1) + area).sub_(overlap);
  // [i, j]: i comes before j and would suppress it.
  const at::Tensor suppresses = (overlap / all).gt(floor_to_float(threshold)).triu_(1);
  at::Tensor kept = at::ones({order.size(0)}, suppresses.options());
  while (true) {
    const at::Tensor next = suppresses.logical_and(kept.unsqueeze(1)).any(0).logical_not();
    if (at::equal(next, kept)) break;
    kept = next;
  }
  return order.index_select(0, kept.nonzero().squeeze(1));
}

at::Tensor nms(const at::Tensor& boxes, const at::Tensor& scores, double threshold) {
  DIVERGEN_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && scores.dim() == 1 && scores.size(0) == boxes.size(0),
                 boxes.sizes(), scores.sizes());
  at::NoGradGuard no_grad;
  if (boxes.is_cpu()) return nms_on_host(boxes, scores, threshold);
  if (boxes.size(0) <= kMostComposed) return nms_composed(boxes, scores, threshold);
  return nms_on_host(boxes.to(at::kCPU), scores.to(at::kCPU), threshold).to(boxes.device());
}

at::Tensor batched_nms(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& classes, double threshold) {
  DIVERGEN_CHECK(classes.sizes() == scores.sizes(), classes.sizes(), scores.sizes());
  at::NoGradGuard no_grad;
  if (boxes.size(0) == 0) return at::empty({0}, boxes.options().dtype(at::kLong));
  const at::Tensor floats = boxes.to(at::kFloat);
  // torchvision's limits, in numbers of coordinates.
  if (boxes.numel() > (boxes.is_cpu() ? 4000 : 100000)) return class_by_class(floats, scores, classes, threshold);
  const at::Tensor offsets = classes.to(at::kFloat) * (floats.max() + 1);
  return nms(floats + offsets.unsqueeze(1), scores, threshold);
}

}  // namespace divergen::nn
