#pragma once
// What a training will cost before it is started: memory of a device and of a node, disk, steps, epochs, hours. Reads
// neither weights nor pictures; where the data set is absent it says what it assumes. No LibTorch.

#include <cstdint>
#include <string>
#include <vector>

#include "config/settings.hpp"

namespace divergen::stages {

/// A detector's sizes, from its settings alone.
struct DetectorSizes {
  std::int64_t parameters = 0;           // exact: those that named_parameters() has
  std::int64_t backbone_parameters = 0;  // of which bottom-up network and pyramid
  // Of one square image in training; estimates.
  double kept_backbone = 0;  // numbers that backward needs of bottom-up network and pyramid
  double kept_heads = 0;     // and of the heads
  double products = 0;       // multiplications of a forward pass
};
/// `side`: of the image, px. `checkpointing`: Swin's blocks are computed again in backward.
DetectorSizes detector_sizes(const config::DetectorSettings& detector, std::int64_t classes, std::int64_t side,
                             bool checkpointing);

/// Bytes by what takes them.
struct Amount {
  std::string what;
  double bytes = 0;
};

struct TrainingEstimate {
  std::string name;
  std::int64_t ranks = 1, parameters = 0, classes = 0;
  std::int64_t steps = 0, samples = 0, images = 0;  // images that the training draws from
  double epochs = 0;                                // samples / images
  std::vector<Amount> device;                       // of each rank; the main memory's where there is no GPU
  std::vector<Amount> host;                         // of each rank
  double node_bytes = 0;                        // of a node that runs all the ranks: what they hold, what they share
  double checkpoint_bytes = 0, disk_bytes = 0;  // one checkpoint; all that are kept, and the models
  std::int64_t checkpoints = 0;                 // that are kept at the end
  double samples_per_second = 0, hours = 0;     // of all ranks
  std::vector<std::string> basis;               // where numbers come from, and what was assumed
  double device_bytes() const;
  double host_bytes() const;
};

/// `ranks`: of the training. Throws Error(Io | Data) for files of [data] that are there and cannot be read.
TrainingEstimate estimate_training(const config::RunConfig& config, const config::TrainSettings& training, int ranks);

/// Text for people, ending with a newline.
std::string to_text(const TrainingEstimate& estimate);
/// A JSON object.
std::string to_json(const TrainingEstimate& estimate);

}  // namespace divergen::stages
