#include "models/detector/centernet.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.hpp"
#include "nn/nms.hpp"

namespace divergen::models {
namespace {

// CenterNet2's configuration, which DiverGen leaves as it is (reference/detector.md §5, §6).
constexpr std::size_t kLevels = 5;
constexpr std::array<std::int64_t, kLevels> kStrides{8, 16, 32, 64, 128};
constexpr std::array<std::array<double, 2>, kLevels> kRanges{{{0, 80}, {64, 160}, {128, 320}, {256, 640}, {512, 1e7}}};
constexpr double kMinOverlap = 0.8;
constexpr double kMinRadius = 4;
constexpr double kLeastHeat = 1e-4;  // of the target; below it is 0
constexpr double kInfinity = 1e8;
constexpr double kSigmoidClamp = 1e-4;
constexpr double kAlpha = 0.25, kBeta = 4, kGamma = 2;
constexpr double kIgnoreAbove = 0.85;  // negatives with such a probability are likely objects without annotation
constexpr double kPositiveWeight = 0.5, kNegativeWeight = 0.5;
constexpr double kPrior = 0.01;
constexpr double kProposalThreshold = 1e-4, kProposalNms = 0.9, kLeastSide = 0.01;

/// Objects of one image against all cells: [M, n] matrices.
struct Assignment {
  at::Tensor distance;  // squared, in units of the object's radius; 0 at the centre cell
  at::Tensor may_regress;
  at::Tensor left_top, right_bottom;  // [M, n, 2]
};

/// `half_diagonal` within the sizes of a level.
at::Tensor cares(const at::Tensor& half_diagonal, const at::Tensor& ranges) {
  return half_diagonal.ge(ranges.select(-1, 0)).logical_and_(half_diagonal.le(ranges.select(-1, 1)));
}

Assignment assign(const at::Tensor& boxes, const CenterNetGrid& grid) {
  const at::Tensor points = grid.points.unsqueeze(1), strides = grid.strides.view({-1, 1, 1});
  const at::Tensor low = boxes.slice(1, 0, 2), high = boxes.slice(1, 2, 4), sides = high - low;
  const at::Tensor centres = (low + high) / 2;
  Assignment out;
  out.left_top = points - low;
  out.right_bottom = high - points;
  const at::Tensor centre_cells = (centres / strides).trunc_().mul_(strides).add_(strides / 2);  // [M, n, 2] in pixels
  const at::Tensor to_cell = points - centre_cells;

  const at::Tensor inside = at::minimum(out.left_top, out.right_bottom).amin(2).gt(0);
  const at::Tensor near = to_cell.abs().amax(2).le(grid.strides.unsqueeze(1));
  const at::Tensor size = (out.left_top + out.right_bottom).pow_(2).sum(2).sqrt_().div_(2);
  out.may_regress = inside.logical_and(near).logical_and_(cares(size, grid.ranges.unsqueeze(1)));

  constexpr double kDelta = (1 - kMinOverlap) / (1 + kMinOverlap);
  const at::Tensor radius =
      (sides.select(1, 0) * sides.select(1, 1) * (kDelta * kDelta * 2)).clamp_min_(kMinRadius * kMinRadius);
  const at::Tensor is_centre = to_cell.pow(2).sum(2).eq(0);
  out.distance = (points - centres).pow_(2).sum(2).masked_fill_(is_centre, 0).div_(radius);
  return out;
}

/// Cells of the objects' centres of one image, by object and level. No cell is clamped into its map: a centre on the
/// very edge of the padded picture counts in the next row, as in the reference.
at::Tensor centre_cells(const at::Tensor& boxes, std::int64_t image, std::int64_t images, const CenterNetGrid& grid) {
  std::vector<std::int64_t> bases, columns;
  std::vector<double> ranges;
  std::int64_t base = 0;
  for (std::size_t l = 0; l < kLevels; ++l) {
    bases.push_back(base + image * grid.counts[l]);
    columns.push_back(grid.shapes[l][1]);
    ranges.insert(ranges.end(), kRanges[l].begin(), kRanges[l].end());
    base += images * grid.counts[l];
  }
  const auto options = boxes.options();
  const at::Tensor low = boxes.slice(1, 0, 2), high = boxes.slice(1, 2, 4);
  const at::Tensor strides = at::tensor(at::IntArrayRef(kStrides), options).view({1, -1, 1});
  const at::Tensor cells = (((low + high) / 2).unsqueeze(1) / strides).to(at::kLong);  // [n, levels, 2]
  const auto integers = options.dtype(at::kLong);
  const at::Tensor indices = at::tensor(at::IntArrayRef(bases), integers) +
                             cells.select(2, 1) * at::tensor(at::IntArrayRef(columns), integers) + cells.select(2, 0);
  const at::Tensor size = (high - low).pow_(2).sum(1).sqrt_().div_(2).unsqueeze(1);
  const at::Tensor of_levels =
      at::tensor(at::ArrayRef<double>(ranges), options).view({1, static_cast<std::int64_t>(kLevels), 2});
  return indices.masked_select(cares(size, of_levels));
}

/// [N, M, ...] per image -> [cells, ...] level by level.
at::Tensor level_major(const std::vector<at::Tensor>& images, const CenterNetGrid& grid) {
  const at::Tensor all = at::stack(images);
  std::vector<at::Tensor> levels;
  for (const at::Tensor& level : all.split_with_sizes(grid.counts, 1)) levels.push_back(level.flatten(0, 1));
  return at::cat(levels);
}

/// Sum of 1 - GIoU over rows of distances left, top, right, bottom. One is added to either area of the IoU
/// (CenterNet2).
at::Tensor giou_loss(const at::Tensor& ours, const at::Tensor& target) {
  const auto area = [](const at::Tensor& lt, const at::Tensor& rb) {
    const at::Tensor sides = lt + rb;
    return sides.select(1, 0) * sides.select(1, 1);
  };
  const at::Tensor lt = ours.slice(1, 0, 2), rb = ours.slice(1, 2, 4);
  const at::Tensor target_lt = target.slice(1, 0, 2), target_rb = target.slice(1, 2, 4);
  const at::Tensor common = area(at::minimum(lt, target_lt), at::minimum(rb, target_rb));
  const at::Tensor hull = area(at::maximum(lt, target_lt), at::maximum(rb, target_rb));
  const at::Tensor joint = area(target_lt, target_rb) + area(lt, rb) - common;
  const at::Tensor giou = (common + 1.0) / (joint + 1.0) - (hull - joint) / hull;
  return (1 - giou).sum();
}

}  // namespace

CenterNetHead::TowerLayer::TowerLayer(std::int64_t channels, std::int64_t groups)
    : conv(channels, channels, {.padding = 1}), norm(groups, channels) {}

CenterNetHead::Tower::Tower(std::int64_t channels, std::int64_t convs, std::int64_t groups) {
  for (std::int64_t i = 0; i < convs; ++i) {
    TowerLayer& layer = *layers.emplace_back(std::make_unique<TowerLayer>(channels, groups));
    child(std::to_string(3 * i), layer.conv);  // a Sequential of convolution, norm, ReLU
    child(std::to_string(3 * i + 1), layer.norm);
  }
}

CenterNetHead::CenterNetHead(std::int64_t channels, std::int64_t convs, std::int64_t groups)
    : bbox_tower_(channels, convs, groups),
      bbox_pred_(channels, 4, {.padding = 1}),
      agn_hm_(channels, 1, {.padding = 1}) {
  child("bbox_tower", bbox_tower_);
  child("bbox_pred", bbox_pred_);
  child("scales", scales_);
  for (std::size_t l = 0; l < kLevels; ++l) scales_.add();
  child("agn_hm", agn_hm_);
}

CenterNetOutput CenterNetHead::forward(std::span<const at::Tensor> features) const {
  DIVERGEN_CHECK(features.size() == kLevels);
  CenterNetOutput out;
  for (std::size_t l = 0; l < kLevels; ++l) {
    at::Tensor x = features[l];
    for (const auto& layer : bbox_tower_.layers) x = layer->norm.forward(layer->conv.forward(x)).relu_();
    out.heat.push_back(agn_hm_.forward(x));
    out.regression.push_back((bbox_pred_.forward(x) * scales_[l].scale).relu_());
  }
  return out;
}

void CenterNetHead::init(at::Generator& generator) {
  at::NoGradGuard no_grad;
  constexpr double kStd = 0.01, kFirstDistance = 8;  // CenterNet2's centernet_head.py
  const auto convolution = [&](const nn::Conv2d& conv, double bias) {
    conv.weight.normal_(0.0, kStd, generator);
    conv.bias.fill_(bias);
  };
  for (const auto& layer : bbox_tower_.layers) {
    convolution(layer->conv, 0);
    layer->norm.weight.fill_(1);
    layer->norm.bias.zero_();
  }
  convolution(bbox_pred_, kFirstDistance);
  for (const Scale* scale : scales_) scale->scale.fill_(1);
  convolution(agn_hm_, -std::log((1 - kPrior) / kPrior));
}

CenterNetGrid::CenterNetGrid(std::vector<std::array<std::int64_t, 2>> shapes_, const at::TensorOptions& options)
    : shapes(std::move(shapes_)) {
  DIVERGEN_CHECK(shapes.size() == kLevels);
  std::vector<at::Tensor> all_points, all_strides, all_ranges;
  for (std::size_t l = 0; l < kLevels; ++l) {
    const auto [rows, columns] = shapes[l];
    counts.push_back(rows * columns);
    const std::int64_t stride = kStrides[l];
    const auto along = [&](std::int64_t n) { return at::arange(n, options).mul_(stride).add_(stride / 2); };
    all_points.push_back(at::stack({along(columns).view({1, -1}).expand({rows, columns}),
                                    along(rows).view({-1, 1}).expand({rows, columns})},
                                   -1)
                             .view({-1, 2}));
    all_strides.push_back(at::full({counts.back()}, stride, options));
    all_ranges.push_back(at::tensor(at::ArrayRef<double>(kRanges[l]), options).expand({counts.back(), 2}));
  }
  points = at::cat(all_points);
  strides = at::cat(all_strides);
  ranges = at::cat(all_ranges);
}

CenterNetGrid grid_of(const CenterNetOutput& output) {
  std::vector<std::array<std::int64_t, 2>> shapes;
  for (const at::Tensor& map : output.heat) shapes.push_back({map.size(2), map.size(3)});
  return CenterNetGrid(std::move(shapes), output.heat.front().options());
}

CenterNetTargets centernet_targets(std::span<const at::Tensor> boxes, const CenterNetGrid& grid) {
  at::NoGradGuard no_grad;
  const auto images = static_cast<std::int64_t>(boxes.size());
  const std::int64_t cells = grid.points.size(0);
  std::vector<at::Tensor> positives, regressions, heats;
  for (std::int64_t i = 0; i < images; ++i) {
    const at::Tensor& of_image = boxes[static_cast<std::size_t>(i)];
    if (of_image.size(0) == 0) {
      regressions.push_back(at::full({cells, 4}, -kInfinity, grid.points.options()));
      heats.push_back(at::zeros({cells}, grid.points.options()));
      continue;
    }
    positives.push_back(centre_cells(of_image, i, images, grid));
    const Assignment a = assign(of_image, grid);
    // Among the objects that a cell may stand for, the nearest in units of its radius.
    const auto [least, nearest] = a.distance.masked_fill(a.may_regress.logical_not(), kInfinity).min(1);
    const at::Tensor index = nearest.view({-1, 1, 1}).expand({-1, 1, 2});
    const at::Tensor ltrb = at::cat({a.left_top.gather(1, index), a.right_bottom.gather(1, index)}, 2).squeeze(1);
    regressions.push_back(ltrb.masked_fill(least.eq(kInfinity).unsqueeze(1), -kInfinity));
    const at::Tensor heat = a.distance.amin(1).neg_().exp_();
    heats.push_back(heat.masked_fill(heat.lt(kLeastHeat), 0));
  }
  CenterNetTargets out;
  out.positives = positives.empty() ? at::empty({0}, grid.points.options().dtype(at::kLong)) : at::cat(positives);
  for (at::Tensor& regression : regressions) regression.div_(grid.strides.unsqueeze(1));
  out.regression = level_major(regressions, grid);
  out.heat = level_major(heats, grid);
  return out;
}

std::array<at::Tensor, 2> flatten_cells(const CenterNetOutput& output) {
  std::vector<at::Tensor> heat, regression;
  for (std::size_t l = 0; l < output.heat.size(); ++l) {
    heat.push_back(output.heat[l].reshape({-1}));
    regression.push_back(output.regression[l].permute({0, 2, 3, 1}).reshape({-1, 4}));
  }
  return {at::cat(heat), at::cat(regression)};
}

namespace {
at::Tensor regressed_cells(const CenterNetTargets& targets) {
  return targets.regression.amax(1).ge(0).nonzero().squeeze(1);
}
}  // namespace

at::Tensor centernet_counts(const CenterNetTargets& targets, const at::TensorOptions& options) {
  return at::tensor(
      {static_cast<double>(targets.positives.numel()), static_cast<double>(regressed_cells(targets).numel())}, options);
}

std::map<std::string, at::Tensor> centernet_losses(const at::Tensor& heat, const at::Tensor& regression,
                                                   const CenterNetTargets& targets,
                                                   const MeanOverRanks& mean_over_ranks) {
  const at::Tensor cells = regressed_cells(targets);
  at::Tensor counts = centernet_counts(targets, heat.options());
  if (mean_over_ranks) mean_over_ranks(counts);
  counts = counts.clamp_min(1);
  const at::Tensor positives_count = counts[0], cells_count = counts[1];

  std::map<std::string, at::Tensor> losses;
  losses["loss_centernet_loc"] =
      giou_loss(regression.index_select(0, cells), targets.regression.index_select(0, cells)) / cells_count;

  const at::Tensor p = heat.sigmoid().clamp(kSigmoidClamp, 1 - kSigmoidClamp);
  const at::Tensor at_centres = p.index_select(0, targets.positives);
  const at::Tensor positive = (at_centres.log() * (1 - at_centres).pow(kGamma)).sum();
  const at::Tensor weight = (1 - targets.heat).pow(kBeta) * p.detach().lt(kIgnoreAbove);
  const at::Tensor negative = ((1 - p).log() * p.pow(kGamma) * weight).sum();
  losses["loss_centernet_agn_pos"] = positive * (-kAlpha * kPositiveWeight) / positives_count;
  losses["loss_centernet_agn_neg"] = negative * (-(1 - kAlpha) * kNegativeWeight) / positives_count;
  return losses;
}

std::vector<Proposals> propose(std::span<const at::Tensor> heat, std::span<const at::Tensor> regression,
                               const CenterNetGrid& grid, const ProposalLimits& limits) {
  at::NoGradGuard no_grad;
  const std::int64_t images = heat.front().size(0);
  std::vector<at::Tensor> all_heat, all_boxes;  // [N, k] and [N, k, 4] of the levels
  std::int64_t first = 0;
  for (std::size_t l = 0; l < grid.counts.size(); ++l) {
    const std::int64_t count = grid.counts[l];
    at::Tensor scores = heat[l].reshape({images, count});
    const at::Tensor ltrb = regression[l].reshape({images, 4, count}).transpose(1, 2) * kStrides[l];
    const at::Tensor points = grid.points.narrow(0, first, count);
    const at::Tensor low = points - ltrb.slice(2, 0, 2);
    const at::Tensor high = at::maximum(points + ltrb.slice(2, 2, 4), low + kLeastSide);
    at::Tensor boxes = at::cat({low, high}, 2);
    if (count > limits.before_nms) {
      const at::Tensor best =
          std::get<0>(std::get<1>(scores.topk(limits.before_nms, 1, true, /*sorted=*/false)).sort(1));
      scores = scores.gather(1, best);
      boxes = boxes.gather(1, best.unsqueeze(2).expand({-1, -1, 4}));
    }
    all_heat.push_back(scores);
    all_boxes.push_back(boxes);
    first += count;
  }
  const at::Tensor scores = at::cat(all_heat, 1), boxes = at::cat(all_boxes, 1);
  std::vector<Proposals> out;
  for (std::int64_t i = 0; i < images; ++i) {
    const at::Tensor candidates = scores[i].gt(kProposalThreshold).nonzero().squeeze(1);
    Proposals p{boxes[i].index_select(0, candidates), scores[i].index_select(0, candidates).sqrt()};
    at::Tensor kept = nn::nms(p.boxes, p.scores, kProposalNms);
    p = {p.boxes.index_select(0, kept), p.scores.index_select(0, kept)};
    if (p.scores.numel() > limits.after_nms) {  // all that are as good as the last one stay
      const std::int64_t stay = p.scores.ge(p.scores[limits.after_nms - 1]).sum().item<std::int64_t>();
      p = {p.boxes.narrow(0, 0, stay), p.scores.narrow(0, 0, stay)};
    }
    out.push_back(std::move(p));
  }
  return out;
}

}  // namespace divergen::models
