#pragma once
// U²-Net (Qin et al. 2020): salient objects by nested U-shapes. Names and arithmetic of github.com/xuebinqin/U-2-Net
// (model/u2net.py: U2NET and U2NETP, commit ac7e1c8), which differ in their channels alone.
//
// Shape letters: B pictures, S side of the input.

#include <array>
#include <memory>

#include "base/fs.hpp"
#include "models/annotators/layers.hpp"

namespace divergen::weights {
class WeightSource;
}

namespace divergen::models {

/// Channels of a nested U-shape: of what comes in, inside, and of what goes out.
struct RsuSizes {
  std::int64_t in = 0, middle = 0, out = 0;
};

struct U2NetSizes {
  std::array<RsuSizes, 6> encoder;  // stage1 ... stage6
  std::array<RsuSizes, 5> decoder;  // stage1d ... stage5d

  /// "u2net", "u2netp". Throws Error(Config) for others.
  static U2NetSizes published(const std::string& name);
  /// As the shapes of a weight file say, there is no configuration beside it. Throws Error(Data) naming the key that is
  /// missing or has another rank.
  static U2NetSizes from(const weights::WeightSource& source);
};

/// Convolution, norm, ReLU.
struct RsuConv : nn::Module {
  RsuConv(std::int64_t in, std::int64_t out, std::int64_t dilation);
  at::Tensor forward(const at::Tensor& x) const;
  nn::Conv2d conv_s1;
  BatchNorm2d bn_s1;
};

/// A U-shape of `depth` levels (the reference's RSU7 to RSU4), or with `is_flat` one that keeps the map's size and
/// dilates instead (RSU4F).
struct Rsu : nn::Module {
  Rsu(const RsuSizes& sizes, int depth, bool is_flat);
  at::Tensor forward(const at::Tensor& x) const;

 private:
  bool is_flat_;
  RsuConv in_;
  std::vector<RsuConv*> down_;  // 1 ... depth
  std::vector<RsuConv*> up_;    // depth-1 ... 1
};

struct U2Net : nn::Module {
  explicit U2Net(const U2NetSizes& sizes);
  /// Normalised pictures [B, 3, S, S] -> all seven maps after the sigmoid, [B, 1, S, S] each: the fused d0, then d1 of
  /// the finest level to d6.
  std::array<at::Tensor, 7> forward(const at::Tensor& x) const;

 private:
  std::array<std::unique_ptr<Rsu>, 6> encoder_;
  std::array<std::unique_ptr<Rsu>, 5> decoder_;
  std::array<std::unique_ptr<nn::Conv2d>, 6> side_;
  nn::Conv2d outconv_;
};

/// A checkpoint of any format; "module." before its names is left out. Throws Error(Io | Data).
std::unique_ptr<U2Net> load_u2net(const Path& file);

}  // namespace divergen::models
