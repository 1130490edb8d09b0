#pragma once
// Which instances are kept, and why the others are not.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "store/table.hpp"

namespace divergen::stages {

inline constexpr const char* kScoresFormat = "divergen-scores";
inline constexpr int kScoresVersion = 1;
inline constexpr const char* kVerdictsFormat = "divergen-verdicts";
inline constexpr int kVerdictsVersion = 1;

/// Similarity of an item whose category has no real crops to compare with (extra categories).
inline constexpr float kNoSimilarity = -1;

/// Values of the column "reason".
enum class Reason : std::int32_t { Kept, UnlikeRealCrops, MaskTooSmall, MaskTooLarge, LowClipScore, Unreadable };
/// "kept", "unlike_real_crops", ...: indexed by the value; the document "reasons" of a verdict table.
const std::vector<std::string>& reason_names();

struct Score {
  bool is_readable = false;
  std::int32_t crops = 0;            // real crops that it was compared with; 0: the similarity rule does not apply
  float similarity = kNoSimilarity;  // mean cosine to them
  float clip_score = 0;              // logit of the category's text
  float area_share = 0;              // of the frame, with mask > 128
};

/// Bar of a category's CLIP scores: min(filter.min_clip_score, best - filter.tolerance) (reference/semantics.md §6).
double clip_score_bar(float best, const config::FilterSettings& settings);

/// The first rule that an item breaks, in the order readable, area, CLIP score, similarity (DiverGen cleans the pool by
/// area and score, and looks the rest up in the list of similar ones). A mask without any pixel is too small whatever
/// filter.min_area says. All bounds are inclusive; NaN breaks its rule.
Reason judge(const Score& score, double bar, const config::FilterSettings& settings);

/// Best CLIP score of each category id among the readable rows of a table of scores; scores that are NaN do not count.
void add_best_scores(const store::Table& scores, std::map<std::int32_t, float>& best);

/// Format "divergen-verdicts", row for row: item_id u64, similarity f32, clip_score f32, area_share f32, kept u8,
/// reason i32; document "reasons". Numbers of rejected items by reason are set for the stage's record.
/// `best` holds every category of `scores`.
store::Table make_verdicts(const store::Table& scores, const std::map<std::int32_t, float>& best,
                           const config::FilterSettings& settings);

/// Rows of each reason, "kept" included, by the names that the table itself gives. Throws Error(Data) when it is no
/// table of verdicts.
std::map<std::string, std::int64_t> count_reasons(const store::Table& verdicts);

}  // namespace divergen::stages
