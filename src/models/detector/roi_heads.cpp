#include "models/detector/roi_heads.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.hpp"
#include "models/detector/init.hpp"
#include "models/detector/mask_targets.hpp"

namespace divergen::models {
namespace {

// detectron2's and DiverGen's configuration (reference/detector.md §7, §8).
constexpr std::int64_t kBoxPool = 7, kMaskPool = 14;
constexpr std::array<double, kCascadeStages> kMatchIou{0.6, 0.7, 0.8};
const std::array<BoxTransform, kCascadeStages> kTransforms{BoxTransform{{10, 10, 5, 5}}, BoxTransform{{20, 20, 10, 10}},
                                                           BoxTransform{{30, 30, 15, 15}}};
constexpr std::size_t kPooledLevels = 3;  // p3, p4, p5
constexpr double kClassPrior = 0.01;

at::Tensor rois_of(const at::Tensor& image, const at::Tensor& boxes) {
  return at::cat({image.unsqueeze(1).to(boxes.scalar_type()), boxes}, 1);
}

/// Boxes [R, 4] cut to the images that they belong to.
at::Tensor clip_to_images(const at::Tensor& boxes, const at::Tensor& image, std::span<const ImageSize> sizes) {
  std::vector<double> corners;
  for (const auto& [height, width] : sizes)
    for (int i = 0; i < 2; ++i)
      corners.insert(corners.end(), {static_cast<double>(width), static_cast<double>(height)});
  const at::Tensor limits = at::tensor(at::ArrayRef<double>(corners), boxes.options()).view({-1, 4});
  return at::minimum(boxes.clamp_min(0), limits.index_select(0, image));
}

/// All proposals in one list; `appended` gives further boxes of image i, or an undefined tensor.
RoiSet concatenate(std::span<const Proposals> proposals, const TruthList* truth) {
  std::vector<at::Tensor> boxes, images;
  for (std::size_t i = 0; i < proposals.size(); ++i) {
    std::int64_t count = proposals[i].boxes.size(0);
    boxes.push_back(proposals[i].boxes);
    if (truth != nullptr) {
      const std::int64_t objects = truth->first[i + 1] - truth->first[i];
      boxes.push_back(truth->boxes.narrow(0, truth->first[i], objects));
      count += objects;
    }
    images.push_back(at::full({count}, static_cast<std::int64_t>(i), boxes.front().options().dtype(at::kLong)));
  }
  RoiSet out;
  out.boxes = at::cat(boxes);
  out.image = at::cat(images);
  return out;
}

RoiSet take(const RoiSet& rois, const at::Tensor& rows) {
  return {rois.boxes.index_select(0, rows), rois.image.index_select(0, rows), rois.classes.index_select(0, rows),
          rois.truth.index_select(0, rows), rois.truth_boxes.index_select(0, rows)};
}

/// Rows of each image.
std::vector<std::int64_t> counts_of(const at::Tensor& image, std::size_t images) {
  const at::Tensor counts = at::bincount(image, {}, static_cast<std::int64_t>(images)).cpu();
  return {counts.const_data_ptr<std::int64_t>(), counts.const_data_ptr<std::int64_t>() + counts.numel()};
}

}  // namespace

TruthList::TruthList(std::span<const DetectorTruth> truths, std::int64_t num_classes,
                     const at::TensorOptions& options) {
  std::vector<at::Tensor> all_boxes, all_classes;
  std::vector<std::int64_t> images;
  const auto integers = options.dtype(at::kLong);
  for (std::size_t i = 0; i < truths.size(); ++i) {
    first.push_back(static_cast<std::int64_t>(images.size()));
    images.insert(images.end(), static_cast<std::size_t>(truths[i].boxes.size(0)), static_cast<std::int64_t>(i));
    all_boxes.push_back(truths[i].boxes.to(options));
    all_classes.push_back(truths[i].classes.to(integers));
  }
  first.push_back(static_cast<std::int64_t>(images.size()));
  images.push_back(-1);
  all_boxes.push_back(at::zeros({1, 4}, options));
  all_classes.push_back(at::full({1}, num_classes, integers));
  boxes = at::cat(all_boxes);
  classes = at::cat(all_classes);
  image = at::tensor(at::IntArrayRef(images), integers);
}

at::Tensor federated_categories(const at::Tensor& classes, const at::Tensor& frequencies, std::int64_t count,
                                at::Generator& generator) {
  const std::int64_t num_classes = frequencies.numel();
  const at::Tensor appeared = std::get<0>(at::_unique(classes.cpu(), /*sorted=*/true));
  at::Tensor mask = at::zeros({num_classes + 1}, at::kBool);
  mask.index_fill_(0, appeared, 1);
  if (appeared.numel() < count) {
    // Drawn on the CPU, so that one seed gives one draw on every device.
    const at::Tensor weights =
        at::cat({frequencies.cpu().to(at::kFloat), at::zeros({1}, at::kFloat)}).index_fill_(0, appeared, 0);
    // At most as many as have a weight: small runs may have fewer categories than the loss covers.
    const std::int64_t more = std::min({count - appeared.numel(), weights.count_nonzero().item<std::int64_t>()});
    if (more > 0) mask.index_fill_(0, at::multinomial(weights, more, /*replacement=*/false, generator), 1);
  }
  return mask.narrow(0, 0, num_classes).nonzero().squeeze(1).to(classes.device());
}

at::Tensor federated_loss(const at::Tensor& logits, const at::Tensor& classes, const at::Tensor& categories) {
  if (logits.size(0) == 0) return logits.sum() * 0;
  const at::Tensor target = classes.unsqueeze(1).eq(categories).to(logits.scalar_type());
  const at::Tensor covered = logits.index_select(1, categories);
  return at::binary_cross_entropy_with_logits(covered, target, {}, {}, at::Reduction::Sum) /
         static_cast<double>(logits.size(0));
}

at::Tensor box_loss(const at::Tensor& deltas, const RoiSet& rois, const BoxTransform& transform,
                    std::int64_t background) {
  const at::Tensor rows = rois.classes.ne(background).nonzero().squeeze(1);
  if (rows.numel() == 0) return deltas.sum() * 0;
  const at::Tensor target = transform.deltas(rois.boxes.index_select(0, rows), rois.truth_boxes.index_select(0, rows));
  return at::l1_loss(deltas.index_select(0, rows), target);
}

RoiHeads::BoxHead::BoxHead(std::int64_t in, std::int64_t width) : fc1(in, width), fc2(width, width) {
  child("fc1", fc1);
  child("fc2", fc2);
}
at::Tensor RoiHeads::BoxHead::forward(const at::Tensor& pooled) const {
  return fc2.forward(fc1.forward(pooled.flatten(1)).relu_()).relu_();
}

RoiHeads::BoxPredictor::BoxPredictor(std::int64_t in, std::int64_t classes)
    : cls_score(in, classes + 1), bbox_pred(in, 4) {
  buffer("freq_weight", freq_weight, {classes});
  child("cls_score", cls_score);
  child("bbox_pred", bbox_pred);
}

RoiHeads::MaskHead::MaskHead(std::int64_t in, std::int64_t width, std::int64_t count)
    : deconv(width, width, {.kernel = 2, .stride = 2}), predictor(width, 1, {.kernel = 1}) {
  for (std::int64_t i = 0; i < count; ++i) {
    convs.push_back(std::make_unique<nn::Conv2d>(i == 0 ? in : width, width, nn::ConvOptions{.padding = 1}));
    child("mask_fcn" + std::to_string(i + 1), *convs.back());
  }
  child("deconv", deconv);
  child("predictor", predictor);
}
at::Tensor RoiHeads::MaskHead::forward(at::Tensor x) const {
  for (const auto& conv : convs) x = conv->forward(x).relu_();
  return predictor.forward(deconv.forward(x).relu_());
}

RoiHeads::RoiHeads(const config::DetectorSettings& settings, const std::vector<double>& image_counts)
    : settings_(settings),
      num_classes_(static_cast<std::int64_t>(image_counts.size())),
      mask_head_(settings.fpn_channels, settings.mask_channels, settings.mask_convs) {
  child("box_head", box_head_);
  child("box_predictor", box_predictor_);
  child("mask_head", mask_head_);
  const at::Tensor frequencies = at::tensor(at::ArrayRef<double>(image_counts), at::kFloat).pow(settings.fed_power);
  for (std::size_t k = 0; k < kCascadeStages; ++k) {
    box_head_.add(settings.fpn_channels * kBoxPool * kBoxPool, settings.box_fc);
    at::Tensor& freq_weight = box_predictor_.add(settings.box_fc, num_classes_).freq_weight;
    if (!freq_weight.is_meta()) freq_weight.copy_(frequencies);
  }
}

RoiSet RoiHeads::match_rois(at::Tensor boxes, at::Tensor image, const TruthList& truth, double threshold) const {
  at::Tensor iou = box_iou(truth.boxes, boxes);
  // Objects of other images lose against the last row, and that against every object of the own image.
  iou.masked_fill_(truth.image.unsqueeze(1).ne(image), -2);
  iou.select(0, -1).fill_(-1);
  const Match matched = match(iou, threshold);
  RoiSet out{std::move(boxes), std::move(image), {}, matched.index, {}};
  out.classes = truth.classes.index_select(0, matched.index).masked_fill_(matched.label.eq(0), num_classes_);
  out.truth_boxes = truth.boxes.index_select(0, matched.index);
  return out;
}

RoiSet RoiHeads::sample(std::span<const Proposals> proposals, const TruthList& truth, at::Generator& generator) const {
  at::NoGradGuard no_grad;
  RoiSet all = concatenate(proposals, &truth);
  all = match_rois(std::move(all.boxes), std::move(all.image), truth, kMatchIou[0]);
  std::vector<at::Tensor> rows;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < proposals.size(); ++i) {
    const std::int64_t count = proposals[i].boxes.size(0) + truth.first[i + 1] - truth.first[i];
    const auto [foreground, background] = subsample_labels(all.classes.narrow(0, begin, count), settings_.roi_batch,
                                                           settings_.roi_foreground, num_classes_, generator);
    rows.push_back(foreground + begin);
    rows.push_back(background + begin);
    begin += count;
  }
  return take(all, at::cat(rows));
}

RoiHeads::Predictions RoiHeads::run_stage(std::size_t stage, std::span<const at::Tensor> features,
                                          const RoiSet& rois) const {
  const at::Tensor pooled = pool_rois(features.first(kPooledLevels), rois_of(rois.image, rois.boxes), kBoxPool);
  // Each stage sends back a third of its gradient (_ScaleGradient); the values go on as they are.
  if (pooled.requires_grad())
    pooled.register_hook([](const at::Tensor& gradient) { return gradient * (1.0 / kCascadeStages); });
  const at::Tensor x = box_head_[stage].forward(pooled);
  return {box_predictor_[stage].cls_score.forward(x), box_predictor_[stage].bbox_pred.forward(x)};
}

std::map<std::string, at::Tensor> RoiHeads::losses(std::span<const at::Tensor> features, const RoiSet& samples,
                                                   std::span<const DetectorTruth> truths, const TruthList& truth,
                                                   std::span<const ImageSize> sizes, at::Generator& generator,
                                                   RoiTrace* trace) const {
  std::map<std::string, at::Tensor> out;
  RoiSet rois = samples;
  for (std::size_t k = 0; k < kCascadeStages; ++k) {
    const Predictions p = run_stage(k, features, rois);
    const at::Tensor categories =
        federated_categories(rois.classes, box_predictor_[k].freq_weight, settings_.fed_categories, generator);
    const std::string stage = std::to_string(k);
    out["loss_cls_stage" + stage] = federated_loss(p.logits, rois.classes, categories);
    out["loss_box_reg_stage" + stage] = box_loss(p.deltas, rois, kTransforms[k], num_classes_);
    if (trace != nullptr) trace->stages.push_back({rois, p.logits.detach(), p.deltas.detach(), categories});
    if (k + 1 == kCascadeStages) break;
    at::NoGradGuard no_grad;
    const at::Tensor boxes = clip_to_images(kTransforms[k].apply(p.deltas.detach(), rois.boxes), rois.image, sizes);
    const at::Tensor rows = nonempty_boxes(boxes).nonzero().squeeze(1);
    rois = match_rois(boxes.index_select(0, rows), rois.image.index_select(0, rows), truth, kMatchIou[k + 1]);
  }
  out["loss_mask"] = mask_loss(features, samples, truths, truth, trace);
  return out;
}

at::Tensor RoiHeads::mask_loss(std::span<const at::Tensor> features, const RoiSet& samples,
                               std::span<const DetectorTruth> truths, const TruthList& truth, RoiTrace* trace) const {
  const RoiSet foreground = take(samples, samples.classes.ne(num_classes_).nonzero().squeeze(1));
  const at::Tensor rois = rois_of(foreground.image, foreground.boxes);
  const at::Tensor logits = mask_head_.forward(pool_rois(features.first(kPooledLevels), rois, kMaskPool));
  if (rois.size(0) == 0) return logits.sum() * 0;
  const std::vector<std::int64_t> counts = counts_of(foreground.image, truths.size());
  std::vector<at::Tensor> targets;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < truths.size(); begin += counts[i++]) {
    if (counts[i] == 0) continue;
    const at::Tensor objects = foreground.truth.narrow(0, begin, counts[i]) - truth.first[i];
    targets.push_back(mask_targets(truths[i], objects, foreground.boxes.narrow(0, begin, counts[i])));
  }
  const at::Tensor target = at::cat(targets);
  if (trace != nullptr) {
    trace->mask_rois = rois;
    trace->mask_targets = target;
    trace->mask_logits = logits.detach();
  }
  return at::binary_cross_entropy_with_logits(logits.squeeze(1), target.to(logits.scalar_type()));
}

std::vector<RoiDetections> RoiHeads::detect(std::span<const at::Tensor> features, std::span<const Proposals> proposals,
                                            std::span<const ImageSize> sizes, RoiTrace* trace) const {
  at::NoGradGuard no_grad;
  RoiSet rois = concatenate(proposals, nullptr);
  at::Tensor probability;
  for (std::size_t k = 0; k < kCascadeStages; ++k) {
    const Predictions p = run_stage(k, features, rois);
    const at::Tensor of_stage = p.logits.sigmoid();
    probability = k == 0 ? of_stage : probability + of_stage;
    if (trace != nullptr) trace->stages.push_back({rois, p.logits, p.deltas, {}});
    rois.boxes = kTransforms[k].apply(p.deltas, rois.boxes);
    if (k + 1 < kCascadeStages) rois.boxes = clip_to_images(rois.boxes, rois.image, sizes);
  }
  std::vector<RoiDetections> out;
  std::vector<at::Tensor> mask_rois;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < proposals.size(); ++i) {
    const std::int64_t count = proposals[i].boxes.size(0);
    const at::Tensor boxes = rois.boxes.narrow(0, begin, count);
    const at::Tensor scores =
        (probability.narrow(0, begin, count) * (1.0 / kCascadeStages) * proposals[i].scores.unsqueeze(1)).sqrt_();
    begin += count;
    out.push_back({select_detections(boxes, scores, sizes[i], settings_.score_threshold, settings_.nms_threshold,
                                     settings_.detections_per_image),
                   {}});
    const at::Tensor& found = out.back().found.boxes;
    mask_rois.push_back(rois_of(at::full({found.size(0)}, static_cast<std::int64_t>(i), found.options()), found));
    if (trace != nullptr) {
      trace->final_boxes.push_back(boxes);
      trace->final_scores.push_back(scores);
    }
  }
  const at::Tensor all = at::cat(mask_rois);
  const at::Tensor logits = mask_head_.forward(pool_rois(features.first(kPooledLevels), all, kMaskPool));
  if (trace != nullptr) {
    trace->mask_rois = all;
    trace->mask_logits = logits;
  }
  const at::Tensor masks = logits.squeeze(1).sigmoid();
  begin = 0;
  for (RoiDetections& of_image : out) {
    of_image.masks = masks.narrow(0, begin, of_image.found.boxes.size(0));
    begin += of_image.masks.size(0);
  }
  return out;
}

void RoiHeads::init(at::Generator& generator) {
  at::NoGradGuard no_grad;
  // detectron2: Caffe2's initialisations in the heads; Detic: a prior of 1 % in all rows of the classifier, extra
  // classes and background too (reference/semantics.md §8.6).
  constexpr double kClassStd = 0.01, kSmallStd = 0.001;
  const auto normal = [&](auto& layer, double std, double bias) {
    layer.weight.normal_(0.0, std, generator);
    layer.bias.fill_(bias);
  };
  for (std::size_t k = 0; k < kCascadeStages; ++k) {
    init_xavier(box_head_[k].fc1.weight, box_head_[k].fc1.bias, generator);
    init_xavier(box_head_[k].fc2.weight, box_head_[k].fc2.bias, generator);
    normal(box_predictor_[k].cls_score, kClassStd, -std::log((1 - kClassPrior) / kClassPrior));
    normal(box_predictor_[k].bbox_pred, kSmallStd, 0);
  }
  const auto he = [&](auto& layer) {  // over the outputs, which PyTorch takes to be the first dimension
    const auto fan_out = static_cast<double>(layer.weight.numel() / layer.weight.size(1));
    normal(layer, std::sqrt(2.0 / fan_out), 0);
  };
  for (const auto& conv : mask_head_.convs) he(*conv);
  he(mask_head_.deconv);
  normal(mask_head_.predictor, kSmallStd, 0);
}

}  // namespace divergen::models
