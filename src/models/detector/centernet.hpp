#pragma once
// CenterNet as a class-agnostic proposal generator: head, targets, losses, proposals (reference/detector.md §5, §6).
//
// Levels are p3..p7 with strides 8..128. A "cell" is a position of a map; all cells of a batch are numbered level by
// level, then image by image, then row by row.

#include <array>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nn/layers.hpp"

namespace divergen::models {

/// Averages a small float tensor over all ranks in place (identity on one rank): for the normalisers that the reference
/// reduces over GPUs. Collective: every rank calls it once for each training pass.
using MeanOverRanks = std::function<void(at::Tensor&)>;

struct CenterNetOutput {
  std::vector<at::Tensor> heat;        // logits [N, 1, h, w] of each level
  std::vector<at::Tensor> regression;  // [N, 4, h, w]: distances left, top, right, bottom in strides, >= 0
};

class CenterNetHead : public nn::Module {
 public:
  CenterNetHead(std::int64_t channels, std::int64_t convs, std::int64_t groups);
  CenterNetOutput forward(std::span<const at::Tensor> features) const;
  void init(at::Generator& generator);

 private:
  struct TowerLayer {
    TowerLayer(std::int64_t channels, std::int64_t groups);
    nn::Conv2d conv;
    nn::GroupNorm norm;
  };
  struct Tower : nn::Module {
    Tower(std::int64_t channels, std::int64_t convs, std::int64_t groups);
    std::vector<std::unique_ptr<TowerLayer>> layers;
  };
  struct Scale : nn::Module {
    Scale() { parameter("scale", scale, {1}); }
    at::Tensor scale;
  };
  Tower bbox_tower_;
  nn::Conv2d bbox_pred_;
  nn::List<Scale> scales_;
  nn::Conv2d agn_hm_;
};

/// The cells of one image's levels.
struct CenterNetGrid {
  /// shapes: (rows, columns) of each level.
  CenterNetGrid(std::vector<std::array<std::int64_t, 2>> shapes, const at::TensorOptions& options);

  std::vector<std::array<std::int64_t, 2>> shapes;
  std::vector<std::int64_t> counts;  // cells of each level
  at::Tensor points;                 // [M, 2] x, y of the cells in pixels
  at::Tensor strides;                // [M]
  at::Tensor ranges;                 // [M, 2] sizes of objects that the cell's level cares for
};
CenterNetGrid grid_of(const CenterNetOutput& output);

struct CenterNetTargets {
  at::Tensor positives;   // int64: cells of the objects' centres, one for each level that cares; repeated where objects
                          // share one
  at::Tensor regression;  // [cells, 4] in strides; below 0 where a cell has none
  at::Tensor heat;        // [cells], 1 at the centres
};
/// boxes: [n, 4] of each image, in pixels.
CenterNetTargets centernet_targets(std::span<const at::Tensor> boxes, const CenterNetGrid& grid);

/// [number of positives, number of cells with a regression target]: what the losses are divided by, once it is the mean
/// over ranks.
at::Tensor centernet_counts(const CenterNetTargets& targets, const at::TensorOptions& options);

/// loss_centernet_loc, loss_centernet_agn_pos, loss_centernet_agn_neg. heat [cells] logits, regression [cells, 4].
std::map<std::string, at::Tensor> centernet_losses(const at::Tensor& heat, const at::Tensor& regression,
                                                   const CenterNetTargets& targets,
                                                   const MeanOverRanks& mean_over_ranks);
/// The maps of all levels as the two arguments of centernet_losses.
std::array<at::Tensor, 2> flatten_cells(const CenterNetOutput& output);

struct Proposals {
  at::Tensor boxes;   // [n, 4] in pixels, not clipped
  at::Tensor scores;  // [n] descending, roots of the heat
};
struct ProposalLimits {
  std::int64_t before_nms = 4000;  // of a level
  std::int64_t after_nms = 2000;   // of an image (more where scores are equal)
};
/// Proposals of each image; no gradient. heat: after the sigmoid.
std::vector<Proposals> propose(std::span<const at::Tensor> heat, std::span<const at::Tensor> regression,
                               const CenterNetGrid& grid, const ProposalLimits& limits);

}  // namespace divergen::models
