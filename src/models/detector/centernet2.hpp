#pragma once
// CenterNet2 as DiverGen trains it: backbone + FPN, class-agnostic CenterNet proposals, three cascade box stages with a
// federated sigmoid loss, a class-agnostic mask head (reference/detector.md; the sections are cited in the .cpp files).
// State-dict names are detectron2's: backbone.bottom_up..., proposal_generator..., roi_heads...

#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "models/detector/centernet.hpp"
#include "models/detector/truth.hpp"
#include "nn/module.hpp"

namespace divergen::models {

class BottomUp;
class DetectorBackbone;
class RoiHeads;

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

/// Tensors may lie on any device: pictures and truths are taken to the parameters' device. Not thread-safe where one
/// thread changes parameters; losses() and detect() themselves change nothing.
class CenterNet2 : public nn::Module {
 public:
  /// `image_counts`: training images of each class in class order (its length is the number of classes): weights of
  /// the federated draw, and buffer freq_weight.
  CenterNet2(const config::DetectorSettings& settings, const std::vector<double>& image_counts);
  /// The same on a bottom-up network that the settings cannot describe.
  CenterNet2(const config::DetectorSettings& settings, const std::vector<double>& image_counts,
             std::unique_ptr<BottomUp> bottom_up);
  ~CenterNet2() override;

  std::int64_t num_classes() const;

  /// The ten loss terms with their graphs, by the reference's names (loss_cls_stage0 ... loss_centernet_loc); their
  /// plain sum is the training loss. Sampling of proposals and federated categories is drawn from `generator` in the
  /// reference's order, on the CPU. Calls mean_over_ranks once (an empty function stands for one rank), so all ranks
  /// must call losses() together.
  std::map<std::string, at::Tensor> losses(std::span<const DetectorSample> batch, at::Generator& generator,
                                           const MeanOverRanks& mean_over_ranks) const;

  /// The two counts [positives, cells with a regression target] that losses() gives to mean_over_ranks for this batch,
  /// from the truth alone: for batches that are computed in parts but normalised as one.
  at::Tensor proposal_counts(std::span<const DetectorSample> batch) const;

  /// images: [3, h, w] uint8 RGB each; output_sizes: (height, width) that results are scaled to. No gradient. Boxes
  /// that have no area in the output are left out. Masks lie on the CPU.
  std::vector<Detections> detect(std::span<const at::Tensor> images,
                                 std::span<const std::array<std::int64_t, 2>> output_sizes) const;

  // The parts, for comparing with a reference step by step, and for initialisation.

  /// The network's input: normalised, padded with zeros at the right and below to the largest of the batch and up to a
  /// multiple of 32. [N, 3, H, W].
  at::Tensor prepare(std::span<const at::Tensor> images) const;
  DetectorBackbone& backbone() const;
  CenterNetHead& proposal_head() const;
  RoiHeads& roi_heads() const;
  ProposalLimits training_limits() const;
  ProposalLimits inference_limits() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Initial values from the reference's distributions, one generator for all (the detector must lie on the CPU; the last
/// norm of each ResNet branch starts at 1/4, where the reference has a zero that a frozen norm would keep). Then the
/// backbone's weights where settings.backbone_weights names a file (load_backbone of checkpoint.hpp).
void init_detector(CenterNet2& detector, const config::DetectorSettings& settings, at::Generator& generator);

/// For training from random values: sets the backbone's frozen norms to the statistics of these pictures, layer by
/// layer. Frozen norms keep the values they start with, so that an untrained backbone without this has no normalisation
/// at all. images: [3, h, w] uint8 RGB.
void calibrate_norms(CenterNet2& detector, std::span<const at::Tensor> images);

}  // namespace divergen::models
