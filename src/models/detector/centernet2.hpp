#pragma once
// CenterNet2 as DiverGen trains it: backbone + FPN, class-agnostic CenterNet proposals, three cascade box stages with a
// federated sigmoid loss, a class-agnostic mask head (reference/detector.md; the sections are cited in the .cpp files).
// State-dict names are detectron2's: backbone.bottom_up..., proposal_generator..., roi_heads...

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "nn/module.hpp"

namespace divergen::models {

/// Ground truth of one training image, in pixels of that image.
struct DetectorTruth {
  at::Tensor boxes;    // [n, 4] float32, x0 y0 x1 y1
  at::Tensor classes;  // [n] int64, 0-based
  at::Tensor masks;    // [n, H, W] bool or uint8
};

struct DetectorSample {
  at::Tensor image;  // [3, H, W] uint8, RGB, not padded
  DetectorTruth truth;
};

/// Detections of one image, in pixels of the requested output size.
struct Detections {
  at::Tensor boxes;    // [d, 4] float32
  at::Tensor scores;   // [d] float32, descending
  at::Tensor classes;  // [d] int64, 0-based
  at::Tensor masks;    // [d, H, W] bool
};

/// Averages a small float tensor over all ranks in place (identity on one rank): for the normalisers that the reference
/// reduces over GPUs.
using MeanOverRanks = std::function<void(at::Tensor&)>;

class CenterNet2 : public nn::Module {
 public:
  /// `image_counts`: training images of each class in class order (its length is the number of classes): weights of
  /// the federated draw, and buffer freq_weight.
  CenterNet2(const config::DetectorSettings& settings, const std::vector<double>& image_counts);
  ~CenterNet2() override;

  std::int64_t num_classes() const;

  /// The ten loss terms with their graphs, by the reference's names (loss_cls_stage0 ... loss_centernet_loc); their plain
  /// sum is the training loss. Sampling of proposals and federated categories is drawn from `generator` in the
  /// reference's order.
  std::map<std::string, at::Tensor> losses(std::span<const DetectorSample> batch, at::Generator& generator,
                                           const MeanOverRanks& mean_over_ranks) const;

  /// images: [3, h, w] uint8 RGB each; output_sizes: (height, width) that results are scaled to. No gradient.
  std::vector<Detections> detect(std::span<const at::Tensor> images,
                                 std::span<const std::array<std::int64_t, 2>> output_sizes) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Initial values as the reference draws them, then the backbone's weights file where settings.backbone_weights names
/// one (.pkl, .pth, .safetensors; names matched by longest suffix; throws Error(Data) unless every backbone tensor but
/// the unused `fc` is found).
void init_detector(CenterNet2& detector, const config::DetectorSettings& settings, at::Generator& generator);

}  // namespace divergen::models
