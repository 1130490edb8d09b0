#pragma once
// The detector as a task of the training engine: samples in, loss terms out.

#include <ATen/core/Generator.h>

#include <memory>

#include "models/detector/centernet2.hpp"
#include "stages/augment/aspect_groups.hpp"
#include "stages/augment/sample_maker.hpp"
#include "stages/train/engine.hpp"

namespace divergen::stages {

/// The tensors of one sample; image [3, H, W] uint8, masks [n, H, W] uint8 on the CPU.
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
  void seek(std::int64_t iteration) override;
  std::map<std::string, at::Tensor> losses(std::int64_t iteration) override;
  double waited_seconds() const override;

 private:
  /// Of the sample that is the index-th over all ranks and steps.
  std::uint64_t position_of(std::uint64_t index) const;

  const config::RunConfig& config_;
  const config::TrainSettings& training_;
  const SampleMaker& maker_;
  comm::World& world_;
  std::vector<double> image_counts_;
  std::unique_ptr<models::CenterNet2> detector_;
  std::unique_ptr<AspectGroups> groups_;  // null: samples come in the stream's order
  std::unique_ptr<SampleLoader> loader_;  // after what its threads use
  double waited_before_ = 0;              // by loaders that are gone
};

}  // namespace divergen::stages
