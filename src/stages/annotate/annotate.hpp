#pragma once
// The stage "annotate": alpha masks that cut the objects out of the generated pictures.
//
// Shards "annotate/shard-000000.h5", format "divergen-masks", row for row those of "generate":
//   item_id u64, area i64 (px with mask > 128, semantics.md §4.1; -1 where the picture could not be read);
//   heap: grey PNG of the picture's size, empty where the picture could not be read
//   attributes annotator, weights_hash
// Where several annotators are chosen from also:
//   annotator i32 (index into the document "annotators", a list of names; -1 where the picture could not be read),
//   annotator_score.<name> f32: the logit of each one's cut-out, NaN where the picture could not be read

#include <map>
#include <memory>
#include <string>

#include "models/annotator.hpp"
#include "stages/common/context.hpp"
#include "stages/common/shard_request.hpp"
#include "stages/plan/plan.hpp"
#include "store/table.hpp"

namespace divergen::stages {

inline constexpr const char* kMasksFormat = "divergen-masks";
inline constexpr int kMasksVersion = 1;
/// Above it a mask's value means the object (reference/semantics.md §4.1, §5.4).
inline constexpr int kMaskThreshold = 128;
/// Name under which pictures that cannot be decoded are counted.
inline constexpr const char* kUnreadable = "unreadable";

inline constexpr const char* kAnnotators = "annotators";
inline constexpr const char* kChosen = "annotator";
inline constexpr const char* kScoreOf = "annotator_score.";

/// Number of pixels above kMaskThreshold.
std::int64_t mask_area(const image::Image& mask);

/// Masks of a table of pictures, row for row. Pictures are given to the annotator `batch` at a time (those of one size
/// together, the last batch padded with its last picture), so that a mask's bits depend on its picture, its place and
/// `batch` alone; for an annotator that looks at groups, those of one category together instead, in the table's order:
/// then a mask depends on the table's other pictures of its category. Pictures that cannot be decoded are counted under
/// kUnreadable. `names`: of the categories of `pictures`, for annotators that are told them; empty: not told. Rows that
/// `request` leaves out are empty; of those, `pictures` must tell width and height, or, for an annotator that looks at
/// groups, hold the picture too.
store::Table make_masks(const store::Table& pictures, models::Annotator& annotator, std::int64_t batch,
                        const std::map<std::int32_t, std::string>& names = {}, const ShardRequest& request = {});

/// Names of the plan's categories by id.
std::map<std::int32_t, std::string> names_of(const Plan& plan);

/// The device of annotators that are not told another one.
at::Device annotate_device(const comm::World& world);

/// Pictures of one pass in the stage, which decides a mask's bits.
std::int64_t annotate_batch(const Plan& plan);

/// What annotating needs, loaded once for each rank: for the stage, and for the fused one.
class Masking {
 public:
  /// Collective: hashes the weights on rank 0. Throws Error(Config | Io) when they are missing.
  Masking(const RunContext& context, const Plan& plan);

  /// All that the masks depend on besides their pictures, for fingerprints.
  const std::string& text() const { return text_; }
  /// Whether a mask depends on the other pictures of its category, so that none of a shard's can be left out.
  bool needs_all_pictures() { return annotator().group() > 0; }
  /// Masks of a shard of pictures, with the attributes that say what made them.
  store::Table make(const store::Table& pictures, const ShardRequest& request = {});

 private:
  models::Annotator& annotator();

  const config::RunConfig& config_;
  at::Device device_;
  std::map<std::int32_t, std::string> names_;
  std::int64_t batch_;
  std::string text_;
  std::unique_ptr<models::Annotator> annotator_;
};

/// Collective. Throws Error(Io | Data) before work starts when the weights are missing or "generate" is not complete;
/// Error(Stopped).
void run_annotate(const RunContext& context);

}  // namespace divergen::stages
