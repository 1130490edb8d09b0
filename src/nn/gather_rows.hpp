#pragma once
// Rows in another order: how tokens of a picture come into windows and back.

#include <ATen/core/Tensor.h>

namespace divergen::nn {

/// A partial one-to-one map between rows of two lists. int64 tensors on the device of the rows.
struct RowMap {
  at::Tensor from;   // [M]: which of N rows stands at each place, -1: none
  at::Tensor to;     // [N]: at which place each row stands, -1: nowhere
  at::Tensor holes;  // places without a row

  /// From `from`; no row stands twice. `rows` = N.
  static RowMap of(const at::Tensor& from, std::int64_t rows);
  RowMap inverse() const;
};

/// x [B, N, C] -> [B, M, C]: row map.from[i] at place i, `fill` ([C], or undefined: zeros) at the holes. One copy
/// forwards and one backwards, because the gradient of such an order is the inverse order; parallel on the CPU.
at::Tensor gather_rows(const at::Tensor& x, const RowMap& map, const at::Tensor& fill = {});

}  // namespace divergen::nn
