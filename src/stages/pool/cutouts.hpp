#pragma once
// What a fused run keeps of a shard instead of its pictures, masks and scores: the scores of every item, and its
// cut-out as the library will hold it.
//
// Verdicts need the best CLIP score of a whole category, so that they wait for all shards; and other bounds in [filter]
// make them again without any model. Both need nothing but these tables: an eighth, or so, of the bytes of the
// pictures.
//
// Shards "fused/shard-000000.h5", format "divergen-cutouts", one row an item of the plan, in its order:
//   those of "divergen-pictures" (item_id, category, generator, prompt, sample, seed, width, height),
//   those of "divergen-scores" (readable, crops, similarity, clip_score, area_share),
//   cut u8 (CutState), cut_width, cut_height, box_x, box_y i32 (px), area i64, flags u32 (store/library.hpp);
//   where several annotators are chosen from: annotator, annotator_score.<name> and the document "annotators" of
//   "divergen-masks";
//   heap: the cut-out as RGBA PNG, empty where there is none
//   attributes of the pictures, and annotator, annotator_hash, clip_hash

#include <map>
#include <string>
#include <vector>

#include "stages/common/shard_request.hpp"
#include "stages/plan/plan.hpp"
#include "store/library.hpp"

namespace divergen::stages {

inline constexpr const char* kCutoutsFormat = "divergen-cutouts";
inline constexpr int kCutoutsVersion = 1;

/// Values of the column "cut".
enum class CutState : std::uint8_t { Cut, Empty, Thin, Unreadable };

/// The tables of one shard, row for row, as one. Rows that `request` leaves out stay empty. An item that fails in
/// isolation is Unreadable. Throws Error(Data) when the tables are not of the same items.
store::Table make_cutouts(const store::Table& pictures, const store::Table& masks, const store::Table& scores,
                          int alpha_threshold, const ShardRequest& request = {});

/// As pool_rows() (pool.hpp), from a shard of cut-outs and its verdicts: the same instances and counts. Throws
/// Error(Data) when the tables are not those of the plan's rows.
void pool_cutouts(const Plan& plan, Plan::Range range, const store::Table& cutouts, const store::Table& verdicts,
                  std::vector<store::Instance>& instances, std::map<std::string, std::int64_t>& rejected);

}  // namespace divergen::stages
