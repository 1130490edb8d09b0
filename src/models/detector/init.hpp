#pragma once
// Initial values that several parts of the detector share.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace divergen::models {

/// Caffe2's "XavierFill" (detectron2's c2_xavier_fill): uniform with variance 1 / fan_in; bias zero.
void init_xavier(at::Tensor& weight, at::Tensor& bias, at::Generator& generator);

}  // namespace divergen::models
