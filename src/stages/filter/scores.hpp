#pragma once
// What the verdicts rest on: similarity to real crops, CLIP score and area of every generated item.
//
// Shards "filter.scores/shard-000000.h5", format "divergen-scores", row for row those of "generate":
//   item_id u64, category i32 (the data set's id), readable u8, crops i32 (real crops compared with; 0: none, as for
//   extra categories), similarity f32, clip_score f32, area_share f32; the last three are meaningless where readable
//   is 0

#include "stages/common/shard_request.hpp"
#include "stages/filter/clip_scorer.hpp"
#include "stages/filter/reference.hpp"
#include "store/table.hpp"

namespace divergen::stages {

/// The picture that is compared with real crops: whole frame, black where the mask is exactly 0
/// (reference/semantics.md §5.2).
image::Image on_black(const image::Image& picture, const image::Image& mask);
/// The picture that is compared with the text: pixel value 1 (of 255) where the mask is at most 128
/// (reference/semantics.md §5.4).
image::Image on_ones(const image::Image& picture, const image::Image& mask);

/// `names`: of every category id in `pictures`. Rows that `request` leaves out are empty. Throws Error(Data) when the
/// tables are not of the same items.
store::Table make_scores(const store::Table& pictures, const store::Table& masks, const Reference& reference,
                         const std::map<std::int32_t, std::string>& names, ClipScorer& scorer,
                         const ShardRequest& request = {});

}  // namespace divergen::stages
