#include "models/detector/centernet2.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "base/fault.hpp"
#include "models/detector/backbone.hpp"
#include "models/detector/roi_heads.hpp"

namespace divergen::models {
namespace {

constexpr std::array<double, 3> kMean{123.675, 116.280, 103.530}, kStd{58.395, 57.120, 57.375};  // RGB, of ImageNet
constexpr std::int64_t kDivisor = 32;                                                            // of the padded sides

std::int64_t round_up(std::int64_t n) { return (n + kDivisor - 1) / kDivisor * kDivisor; }

ImageSize size_of(const at::Tensor& image) { return {image.size(1), image.size(2)}; }

/// The module "proposal_generator", which holds the head alone.
struct ProposalGenerator : nn::Module {
  explicit ProposalGenerator(const config::DetectorSettings& s)
      : centernet_head(s.fpn_channels, s.tower_convs, s.group_norm_groups) {
    child("centernet_head", centernet_head);
  }
  CenterNetHead centernet_head;
};

}  // namespace

struct CenterNet2::Parts {
  Parts(const config::DetectorSettings& s, const std::vector<double>& image_counts, std::unique_ptr<BottomUp> bottom_up)
      : settings(s),
        backbone(std::move(bottom_up), s.fpn_channels),
        proposal_generator(s),
        roi_heads(s, image_counts) {}
  config::DetectorSettings settings;
  at::Tensor pixel_mean, pixel_std;
  DetectorBackbone backbone;
  ProposalGenerator proposal_generator;
  RoiHeads roi_heads;
};

CenterNet2::CenterNet2(const config::DetectorSettings& settings, const std::vector<double>& image_counts)
    : CenterNet2(settings, image_counts, make_bottom_up(settings)) {}

CenterNet2::CenterNet2(const config::DetectorSettings& settings, const std::vector<double>& image_counts,
                       std::unique_ptr<BottomUp> bottom_up)
    : parts_(std::make_unique<Parts>(settings, image_counts, std::move(bottom_up))) {
  DIVERGEN_CHECK(!image_counts.empty(), "a detector without classes");
  const auto fixed = [&](const char* name, at::Tensor& slot, const std::array<double, 3>& values) {
    buffer(name, slot, {3, 1, 1}, at::kFloat, /*persistent=*/false);
    if (!slot.is_meta()) slot.copy_(at::tensor(at::ArrayRef<double>(values), at::kFloat).view({3, 1, 1}));
  };
  fixed("pixel_mean", parts_->pixel_mean, kMean);
  fixed("pixel_std", parts_->pixel_std, kStd);
  child("backbone", parts_->backbone);
  child("proposal_generator", parts_->proposal_generator);
  child("roi_heads", parts_->roi_heads);
}

CenterNet2::~CenterNet2() = default;

std::int64_t CenterNet2::num_classes() const { return parts_->roi_heads.num_classes(); }
DetectorBackbone& CenterNet2::backbone() const { return parts_->backbone; }
CenterNetHead& CenterNet2::proposal_head() const { return parts_->proposal_generator.centernet_head; }
RoiHeads& CenterNet2::roi_heads() const { return parts_->roi_heads; }
ProposalLimits CenterNet2::training_limits() const {
  return {parts_->settings.pre_nms_train, parts_->settings.post_nms_train};
}
ProposalLimits CenterNet2::inference_limits() const {
  return {parts_->settings.pre_nms_test, parts_->settings.post_nms_test};
}

at::Tensor CenterNet2::prepare(std::span<const at::Tensor> images) const {
  at::NoGradGuard no_grad;
  DIVERGEN_CHECK(!images.empty(), "a batch without pictures");
  std::int64_t height = 0, width = 0;
  for (const at::Tensor& image : images) {
    DIVERGEN_CHECK(image.dim() == 3 && image.size(0) == 3, "a picture of shape ", image.sizes());
    height = std::max(height, round_up(image.size(1)));
    width = std::max(width, round_up(image.size(2)));
  }
  const at::Tensor& mean = parts_->pixel_mean;
  at::Tensor out = at::zeros({static_cast<std::int64_t>(images.size()), 3, height, width}, mean.options());
  for (std::size_t i = 0; i < images.size(); ++i) {
    at::Tensor place =
        out[static_cast<std::int64_t>(i)].narrow(1, 0, images[i].size(1)).narrow(2, 0, images[i].size(2));
    place.copy_(images[i]).sub_(mean).div_(parts_->pixel_std);
  }
  return out;
}

std::map<std::string, at::Tensor> CenterNet2::losses(std::span<const DetectorSample> batch, at::Generator& generator,
                                                     const MeanOverRanks& mean_over_ranks) const {
  std::vector<at::Tensor> images, boxes;
  std::vector<ImageSize> sizes;
  std::vector<DetectorTruth> truths;
  for (const DetectorSample& sample : batch) {
    images.push_back(sample.image);
    sizes.push_back(size_of(sample.image));
    truths.push_back(sample.truth);
  }
  const at::Tensor input = prepare(images);
  for (const DetectorTruth& truth : truths) boxes.push_back(truth.boxes.to(input.options()));

  std::vector<at::Tensor> features = parts_->backbone.forward(input);
  if (fault::spoils("train.activation")) features.front() = features.front() * std::nan("");
  const CenterNetOutput output = proposal_head().forward(features);
  const CenterNetGrid grid = grid_of(output);
  const auto [heat, regression] = flatten_cells(output);
  auto losses = centernet_losses(heat, regression, centernet_targets(boxes, grid), mean_over_ranks);

  std::vector<at::Tensor> probability, distances;
  for (std::size_t l = 0; l < output.heat.size(); ++l) {
    probability.push_back(output.heat[l].detach().sigmoid());
    distances.push_back(output.regression[l].detach());
  }
  const std::vector<Proposals> proposals = propose(probability, distances, grid, training_limits());
  const TruthList truth(truths, num_classes(), input.options());
  const RoiSet samples = parts_->roi_heads.sample(proposals, truth, generator);
  losses.merge(parts_->roi_heads.losses(features, samples, truths, truth, sizes, generator));
  return losses;
}

at::Tensor CenterNet2::proposal_counts(std::span<const DetectorSample> batch) const {
  at::NoGradGuard no_grad;
  const at::TensorOptions options = parts_->pixel_mean.options();
  std::int64_t height = 0, width = 0;
  std::vector<at::Tensor> boxes;
  for (const DetectorSample& sample : batch) {
    height = std::max(height, round_up(sample.image.size(1)));
    width = std::max(width, round_up(sample.image.size(2)));
    boxes.push_back(sample.truth.boxes.to(options));
  }
  // The pyramid's levels: strides 8, 16 and 32 divide the padded sides, two more halve them and round up.
  std::vector<std::array<std::int64_t, 2>> shapes{
      {height / 8, width / 8}, {height / 16, width / 16}, {height / 32, width / 32}};
  for (int level = 0; level < 2; ++level) shapes.push_back({(shapes.back()[0] + 1) / 2, (shapes.back()[1] + 1) / 2});
  return centernet_counts(centernet_targets(boxes, CenterNetGrid(shapes, options)), options);
}

std::vector<Detections> CenterNet2::detect(std::span<const at::Tensor> images,
                                           std::span<const std::array<std::int64_t, 2>> output_sizes) const {
  at::NoGradGuard no_grad;
  DIVERGEN_CHECK(images.size() == output_sizes.size());
  std::vector<ImageSize> sizes;
  for (const at::Tensor& image : images) sizes.push_back(size_of(image));
  const std::vector<at::Tensor> features = parts_->backbone.forward(prepare(images));
  CenterNetOutput output = proposal_head().forward(features);
  const CenterNetGrid grid = grid_of(output);
  for (at::Tensor& heat : output.heat) heat.sigmoid_();
  const auto proposals = propose(output.heat, output.regression, grid, inference_limits());
  const auto found = parts_->roi_heads.detect(features, proposals, sizes);

  std::vector<Detections> out;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const ScoredBoxes& f = found[i].found;
    const at::Tensor boxes = rescale_boxes(f.boxes, sizes[i], output_sizes[i]);
    const at::Tensor rows = nonempty_boxes(boxes).nonzero().squeeze(1);
    Detections d;
    d.boxes = boxes.index_select(0, rows);
    d.scores = f.scores.index_select(0, rows);
    d.classes = f.classes.index_select(0, rows);
    constexpr double kMaskThreshold = 0.5;
    d.masks = paste_masks(found[i].masks.index_select(0, rows), d.boxes, output_sizes[i][0], output_sizes[i][1],
                          kMaskThreshold);
    out.push_back(std::move(d));
  }
  return out;
}

}  // namespace divergen::models
