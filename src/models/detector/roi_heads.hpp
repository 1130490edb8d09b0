#pragma once
// The second stage: three cascade box heads with a federated sigmoid loss, and a class-agnostic mask head
// (reference/detector.md §7, §8; semantics.md §8.6, §8.7).
//
// RoIs of all images lie in one list, image by image, so that each step is one operation for the batch.

#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "models/detector/box_ops.hpp"
#include "models/detector/centernet.hpp"
#include "models/detector/truth.hpp"
#include "nn/layers.hpp"

namespace divergen::models {

constexpr std::size_t kCascadeStages = 3;

using ImageSize = std::array<std::int64_t, 2>;  // height, width in pixels, without padding

/// RoIs of a batch, with what they are matched to where there is a truth.
struct RoiSet {
  at::Tensor boxes;        // [R, 4]
  at::Tensor image;        // int64 [R], ascending
  at::Tensor classes;      // int64 [R]; the number of classes stands for background
  at::Tensor truth;        // int64 [R]: row of the best overlapping object in the batch's list of objects
  at::Tensor truth_boxes;  // [R, 4] of that object; zeros in images without objects
};

/// Objects of a batch in one list, and a last row that images without objects are matched to (background, zero box).
struct TruthList {
  TruthList(std::span<const DetectorTruth> truths, std::int64_t num_classes, const at::TensorOptions& options);
  at::Tensor boxes, classes, image;  // [G + 1, 4], [G + 1], [G + 1] (-1 in the last row)
  std::vector<std::int64_t> first;   // row of each image's first object
};

/// What a pass computed on the way.
struct RoiTrace {
  struct Stage {
    RoiSet rois;
    at::Tensor logits, deltas;  // [R, C + 1], [R, 4]
    at::Tensor categories;      // int64: those that the loss covers, without background (training)
  };
  std::vector<Stage> stages;
  at::Tensor mask_rois;                               // [F, 5]
  at::Tensor mask_targets, mask_logits;               // [F, 28, 28] bool, [F, 1, 28, 28]
  std::vector<at::Tensor> final_boxes, final_scores;  // of each image before suppression (inference)
};

/// Detections of one image, in pixels of the network's input.
struct RoiDetections {
  ScoredBoxes found;
  at::Tensor masks;  // [d, 28, 28] probabilities
};

/// Categories that the federated loss covers (get_fed_loss_inds): those of the RoIs, and as many as are left of `count`
/// drawn without replacement with the weights `frequencies` [C]. Background counts towards `count` and is not in the
/// result. Ascending int64. One draw from `generator`, none where the RoIs have `count` already.
at::Tensor federated_categories(const at::Tensor& classes, const at::Tensor& frequencies, std::int64_t count,
                                at::Generator& generator);
/// Binary cross entropy of logits [R, C + 1] over `categories`, divided by R; 0 without RoIs.
at::Tensor federated_loss(const at::Tensor& logits, const at::Tensor& classes, const at::Tensor& categories);
/// Mean absolute difference over the foreground; 0 without any. deltas [R, 4].
at::Tensor box_loss(const at::Tensor& deltas, const RoiSet& rois, const BoxTransform& transform,
                    std::int64_t background);

class RoiHeads : public nn::Module {
 public:
  RoiHeads(const config::DetectorSettings& settings, const std::vector<double>& image_counts);

  /// Appends the objects to the proposals, matches, and draws roi_batch RoIs of each image.
  RoiSet sample(std::span<const Proposals> proposals, const TruthList& truth, at::Generator& generator) const;
  /// Matches the boxes to the objects of their image; foreground where IoU >= threshold.
  RoiSet match_rois(at::Tensor boxes, at::Tensor image, const TruthList& truth, double threshold) const;

  /// The seven losses. features: p3.. (three are used); samples: from sample(). Draws from `generator` once a stage.
  std::map<std::string, at::Tensor> losses(std::span<const at::Tensor> features, const RoiSet& samples,
                                           std::span<const DetectorTruth> truths, const TruthList& truth,
                                           std::span<const ImageSize> sizes, at::Generator& generator,
                                           RoiTrace* trace = nullptr) const;
  std::vector<RoiDetections> detect(std::span<const at::Tensor> features, std::span<const Proposals> proposals,
                                    std::span<const ImageSize> sizes, RoiTrace* trace = nullptr) const;

  std::int64_t num_classes() const { return num_classes_; }
  void init(at::Generator& generator);

 private:
  struct BoxHead : nn::Module {
    BoxHead(std::int64_t in, std::int64_t width);
    at::Tensor forward(const at::Tensor& pooled) const;
    nn::Linear fc1, fc2;
  };
  struct BoxPredictor : nn::Module {
    BoxPredictor(std::int64_t in, std::int64_t classes);
    nn::Linear cls_score, bbox_pred;
    at::Tensor freq_weight;
  };
  struct MaskHead : nn::Module {
    MaskHead(std::int64_t in, std::int64_t width, std::int64_t convs);
    at::Tensor forward(at::Tensor x) const;
    std::vector<std::unique_ptr<nn::Conv2d>> convs;
    nn::ConvTranspose2d deconv;
    nn::Conv2d predictor;
  };
  struct Predictions {
    at::Tensor logits, deltas;
  };
  Predictions run_stage(std::size_t stage, std::span<const at::Tensor> features, const RoiSet& rois) const;
  at::Tensor mask_loss(std::span<const at::Tensor> features, const RoiSet& samples,
                       std::span<const DetectorTruth> truths, const TruthList& truth, RoiTrace* trace) const;

  config::DetectorSettings settings_;
  std::int64_t num_classes_;
  nn::List<BoxHead> box_head_;
  nn::List<BoxPredictor> box_predictor_;
  MaskHead mask_head_;
};

}  // namespace divergen::models
