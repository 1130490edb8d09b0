#pragma once
// From the picture to the feature pyramid p3..p7 (reference/detector.md §2, §4).

#include <array>
#include <memory>
#include <vector>

#include "config/settings.hpp"
#include "nn/layers.hpp"

namespace divergen::models {

/// A network that the pyramid stands on: ResNet, Swin.
class BottomUp : public nn::Module {
 public:
  /// x [N, 3, H, W], normalised, H and W multiples of 32 -> the maps of strides 8, 16 and 32.
  virtual std::array<at::Tensor, 3> forward(const at::Tensor& x) const = 0;
  /// Channels of those three maps.
  virtual std::array<std::int64_t, 3> channels() const = 0;
  /// Draws initial values as the reference does.
  virtual void init(at::Generator& generator) = 0;
  /// Sets fixed statistics, where there are such, from the pictures x (see calibrate_norms).
  virtual void calibrate(const at::Tensor& /*x*/) {}
  /// In training, computes blocks again in backward instead of keeping what they computed, where it can.
  virtual void checkpoint_blocks(bool /*on*/) {}
};

/// How the backbone computes; results differ by rounding alone.
struct BackboneCompute {
  at::ScalarType precision = at::kFloat;  // of training (autocast); inference is float32 (reference/detector.md §9)
  bool checkpointing = false;             // BottomUp::checkpoint_blocks
  bool channels_last = false;             // layout of the maps
};

/// The bottom-up network that the settings name. Throws Error(Config) for a name that is not known.
std::unique_ptr<BottomUp> make_bottom_up(const config::DetectorSettings& settings);

/// detectron2's FPN without norms, fused by sums, with p6 and p7 made from p5.
class DetectorBackbone : public nn::Module {
 public:
  DetectorBackbone(std::unique_ptr<BottomUp> bottom_up, std::int64_t channels);
  /// p3..p7, each [N, channels, h, w].
  /// Always float32.
  std::vector<at::Tensor> forward(const at::Tensor& x) const;
  /// The pyramid over the maps of bottom_up().
  std::vector<at::Tensor> pyramid(const std::array<at::Tensor, 3>& maps) const;
  BottomUp& bottom_up() const { return *bottom_up_; }
  /// Draws the initial values of the pyramid and of what it stands on.
  void init(at::Generator& generator);
  void set_compute(const BackboneCompute& compute);

 private:
  struct TopBlock : nn::Module {
    explicit TopBlock(std::int64_t channels);
    nn::Conv2d p6, p7;
  };
  std::unique_ptr<BottomUp> bottom_up_;
  std::array<nn::Conv2d, 3> lateral_, output_;  // of strides 8, 16, 32
  TopBlock top_block_;
  BackboneCompute compute_;
};

}  // namespace divergen::models
