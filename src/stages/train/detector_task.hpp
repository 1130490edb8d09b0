#pragma once
// The detector as a task of the training engine: samples in, loss terms out.

#include <ATen/core/Generator.h>

#include <memory>

#include "models/detector/centernet2.hpp"
#include "stages/augment/aspect_groups.hpp"
#include "stages/augment/sample_maker.hpp"
#include "stages/train/engine.hpp"

namespace divergen::stages {

/// The tensors of one sample; image [3, H, W] uint8, masks [n, H, W] uint8 on the CPU (or
/// polygons).
models::DetectorSample to_detector_sample(const Sample& sample);

class DetectorTask : public TrainingTask {
 public:
  /// `maker` and `world` must outlive the task. The detector is made on `device`.
  DetectorTask(const config::RunConfig& config, const config::TrainSettings& training,
               const std::vector<double>& image_counts, const SampleMaker& maker, comm::World& world,
               at::Device device);

  nn::Module& module() override { return *detector_; }
  /// As init_detector draws them; then the file that settings name; from random values, with the frozen norms set to
  /// the first samples of the stream.
  void initialise() override;
  void keep_batches_of(std::int64_t shares) override;
  void seek(std::int64_t iteration) override;
  std::map<std::string, at::Tensor> losses(std::int64_t iteration) override { return part_losses(iteration, 0, 1); }
  /// CenterNet's normalisers are those of all parts and ranks together: the counts of the whole batch.
  std::map<std::string, at::Tensor> part_losses(std::int64_t iteration, std::int64_t part, std::int64_t parts) override;
  double waited_seconds() const override;

 private:
  /// Ranks, were each part a rank of its own.
  std::int64_t shares() const { return world_.size() * training_.accumulate; }
  /// Of the sample that a rank of one part takes as the index-th over all ranks and steps.
  std::uint64_t position_of(std::uint64_t index) const;
  /// The same for the order in which this rank takes them: part after part.
  std::uint64_t index_in_parts(std::uint64_t index) const;
  std::vector<models::DetectorSample> next_samples(std::int64_t iteration, std::int64_t part);
  /// Collective. Reads the samples of all parts, and counts what CenterNet normalises by: means over parts and ranks.
  void prepare_parts(std::int64_t iteration);
  void mean_over_ranks(at::Tensor& values) const;

  const config::RunConfig& config_;
  const config::TrainSettings& training_;
  const SampleMaker& maker_;
  comm::World& world_;
  std::vector<double> image_counts_;
  std::unique_ptr<models::CenterNet2> detector_;
  std::unique_ptr<AspectGroups> groups_;                    // null: samples come in the stream's order
  std::unique_ptr<SampleLoader> loader_;                    // after what its threads use
  double waited_before_ = 0;                                // by loaders that are gone
  std::vector<std::vector<models::DetectorSample>> parts_;  // of the step, with train.accumulate
  at::Tensor part_counts_;
};

}  // namespace divergen::stages
